"""SIGTERM withdraws what this process publishes, where it would end it without running any of its code."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

__all__ = ["before_sigterm"]

_NUMBER = signal.SIGTERM
_leaving = threading.Lock()
_acts: list[Callable[[], None]] = []


def before_sigterm(act: Callable[[], None]) -> None:
    """Have SIGTERM run this, and then end the process as it would have.

    A program's own handler is left alone: it ends the process in a way that runs what is registered with `atexit`, or
    means to go on. Nor is anything done outside the main thread, where Python allows no handler to be set.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(_NUMBER) is not signal.SIG_DFL:
        return
    _acts.append(act)
    signal.signal(_NUMBER, _leave)
    _watch()


def _leave(number: int, _: FrameType | None) -> None:
    with _leaving:
        # A second one ends it at once. By the C library: signal.signal is for the main thread alone.
        ctypes.CDLL(None).signal(int(number), None)
        for act in _acts:
            act()
        os.kill(os.getpid(), number)


def _watch() -> None:
    """Run the handler in a thread of its own too.

    Python runs it in the main thread, once that gets back to the interpreter. In a call that waits it would not: not in
    most native code, nor in a `recv` that was about to begin when the signal came (one in twenty of signals that met a
    process just then).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    others = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if others != -1:  # an event loop's, which wakes up and runs the handler
        signal.set_wakeup_fd(others)
        os.close(reader)
        os.close(writer)
        return
    threading.Thread(target=_wait, args=(reader,), name="yrfl-sigterm", daemon=True).start()
    os.register_at_fork(after_in_child=lambda: _let_go(writer))


def _wait(reader: int) -> None:
    while signals := os.read(reader, 64):
        if _NUMBER in signals and signal.getsignal(_NUMBER) is _leave:
            _leave(_NUMBER, None)


def _let_go(writer: int) -> None:
    """A signal to a child must not end its parent."""
    others = signal.set_wakeup_fd(-1)
    if others not in (writer, -1):
        signal.set_wakeup_fd(others)
