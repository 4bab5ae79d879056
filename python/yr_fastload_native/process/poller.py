"""Watches tensors that are published by reference, since a write to them would reach their readers."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

__all__ = ["Poller"]

_LOOK_S = 0.5
_SHARE = 0.01


class Poller:
    """A thread that checks something periodically, until it is stopped or the watched object is gone.

    Args:
        look: A bound method, whose object it does not keep alive; returns false once there is nothing left to watch.
        share: Largest share of a core to use.
    """

    def __init__(self, look: Callable[[], bool], *, share: float = _SHARE) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=_watch, args=(weakref.WeakMethod(look), self._stopped, share), name="yrfl-poller", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end, unless called by itself."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _watch(look: weakref.WeakMethod[Callable[[], bool]], stopped: threading.Event, share: float) -> None:
    pause_s = _LOOK_S
    while not stopped.wait(pause_s):
        started = time.monotonic()
        method = look()
        if method is None or not method():
            return
        del method
        pause_s = max(_LOOK_S, (time.monotonic() - started) / share)
