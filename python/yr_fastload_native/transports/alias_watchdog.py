"""Handles tensors that alias the worker's memory in a process that stood still for too long.

openYuanrong's worker keeps an object's memory for as long as a client that holds it lives, and considers a client dead
if it has not heard from it for a while (``client_dead_timeout_s``, 120 s by default in 0.8.1). A process that was
stopped, or whose machine slept, may find other bytes there. So a thread watches the clock, and after a standstill it
copies what is still shared and compares it. Memory that has changed must not be used: touching it ends the process,
which is better than wrong answers.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable

from yr_fastload_native import _core

__all__ = ["alias_finder", "watch"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_STANDSTILL_S = 10.0

_lock = threading.Lock()
_watched: weakref.WeakKeyDictionary[_core.PrivateMemory, Callable[[], bool]] = weakref.WeakKeyDictionary()
_thread: threading.Thread | None = None


def watch(memory: _core.PrivateMemory, intact: Callable[[], bool]) -> None:
    """Watch memory until nobody uses it any more.

    Args:
        memory: The memory that tensors use.
        intact: Whether the worker's bytes there are still right.
    """
    global _thread
    with _lock:
        _watched[memory] = intact
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look, name="yr-fastload-aliases", daemon=True)
            _thread.start()


def alias_finder() -> Callable[[int], bool]:
    """Tells of an address whether the memory there is watched here, as of now."""
    with _lock:
        spans = sorted((memory.address, memory.address + memory.nbytes) for memory in _watched)
    starts = [start for start, _ in spans]

    def is_alias(address: int) -> bool:
        before = bisect_right(starts, address)
        return before > 0 and address < spans[before - 1][1]

    return is_alias


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # continues while a machine sleeps


def _look() -> None:
    global _thread
    before = _now()
    while True:
        time.sleep(_LOOK_S)
        now = _now()
        stood_s, before = now - before - _LOOK_S, now
        with _lock:
            if not _watched:
                _thread = None
                return
            found = list(_watched.items()) if stood_s > _STANDSTILL_S else []
        if found:
            _leave(found, stood_s)


def _leave(found: list[tuple[_core.PrivateMemory, Callable[[], bool]]], stood_s: float) -> None:
    """Copy everything, and check whether the bytes were still right."""
    lost = 0
    for memory, intact in found:
        memory.detach()  # before it is checked
        try:
            right = intact()
        except Exception:  # unknown
            right = False
        if not right:
            memory.forbid()
            lost += 1
        with _lock:
            _watched.pop(memory, None)
    if lost:
        _log.critical(
            "this process stood still for %.0f s, and %d of %d chunks of the weights that it shares with its worker "
            "may have changed: it ends as soon as it uses them; start it again",
            stood_s,
            lost,
            len(found),
        )
    else:
        _log.warning("this process stood still for %.0f s; from now on it has its own copy of all weights", stood_s)
