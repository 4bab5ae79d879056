"""What a forked process has to lose of the one that it was forked from, to be like one that was just started."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
from collections.abc import Mapping

__all__ = ["be_fresh", "only_open"]


def only_open(wanted: Mapping[int, int | None]) -> None:
    """Close every descriptor but these. What becomes of the objects that had the others closes nothing else.

    Args:
        wanted: By number, the descriptor that it is to be another name of; None: it stays what it is.
    """
    for number, other in wanted.items():
        if other is not None and other != number:
            os.dup2(other, number)
    null = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in wanted and number != null:
            with contextlib.suppress(OSError):  # the one by which the directory was read
                os.fstat(number)
                os.dup2(null, number, inheritable=False)


def be_fresh() -> None:
    """What a process has of its own from its start: signals, and what nobody is to foresee."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None:
        processes.current_process().authkey = os.urandom(32)
    gc.freeze()  # nobody collects what the process it was forked from had made
    gc.enable()
