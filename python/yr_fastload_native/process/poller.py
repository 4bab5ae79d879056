"""Watches tensors that are published by reference, since a write to them would reach their readers."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable

__all__ = ["Poller"]

_LOOK_S = 0.5
_SHARE = 0.01


class Poller:
    """A thread that checks something periodically, until it is stopped or the watched object is gone.

    Args:
        look: A bound method, whose object it does not keep alive; returns false once there is nothing left to watch.
        share: Largest share of a core to use.
        clock: By which that is measured, seconds. By default what the thread computes, not how long it took: one that
            was kept waiting for a core, or stood still with its process, is late already.
    """

    def __init__(
        self, look: Callable[[], bool], *, share: float = _SHARE, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._stopped = threading.Event()
        self._elsewhere: deque[float] = deque()
        self._thread = threading.Thread(
            target=_watch,
            args=(weakref.WeakMethod(look), self._stopped, self._elsewhere, share, clock),
            name="yrfl-poller",
            daemon=True,
        )
        self._thread.start()

    def spend(self, seconds: float) -> None:
        """Count what other threads do for the present look."""
        self._elsewhere.append(seconds)

    def stop(self) -> None:
        self._stopped.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end, unless called by itself."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _watch(
    look: weakref.WeakMethod[Callable[[], bool]],
    stopped: threading.Event,
    elsewhere: deque[float],
    share: float,
    clock: Callable[[], float],
) -> None:
    pause_s = _LOOK_S
    while not stopped.wait(pause_s):
        started = clock()
        method = look()
        if method is None or not method():
            return
        del method
        pause_s = max(_LOOK_S, (clock() - started + sum(elsewhere)) / share)
        elsewhere.clear()
