"""Makes SIGTERM withdraw what this process publishes, if it would otherwise end it without running any code."""

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
    """Run this on SIGTERM, and then end the process as SIGTERM would have.

    A program's own handler is left alone: it ends the process in a way that runs `atexit` handlers, or wants to
    continue. Nothing is done outside the main thread either, where Python does not allow setting a handler.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(_NUMBER) is not signal.SIG_DFL:
        return
    _acts.append(act)
    signal.signal(_NUMBER, _leave)
    _watch()


def _leave(number: int, _: FrameType | None) -> None:
    with _leaving:
        # A second one ends it at once. This uses the C library, since signal.signal only works in the main thread.
        ctypes.CDLL(None).signal(int(number), None)
        for act in _acts:
            act()
        os.kill(os.getpid(), number)


def _watch() -> None:
    """Run the handler on a separate thread too.

    Python runs it on the main thread, once that returns to the interpreter. That does not happen in a blocking call:
    not in most native code, nor in a `recv` that was about to begin when the signal arrived (one in twenty signals at
    such a moment).
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    others = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if others != -1:  # an event loop's; it wakes up and runs the handler
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
