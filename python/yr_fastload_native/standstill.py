"""Tensors that alias the worker's memory, in a process that stood still for too long.

openYuanrong's worker keeps the memory of an object for as long as a client that holds it lives, and takes a client for
dead that has not been heard of for a while (``client_dead_timeout_s``, 120 s by default in 0.8.1). A process that was
stopped, or whose machine slept, may find other bytes there. So a thread looks at the clock, and after a standstill
copies what is still the worker's, and compares. What is not right any more must not be used: whoever touches it then
ends the process, which is better than wrong answers.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

from yr_fastload_native import _core

__all__ = ["is_alias", "watch"]

_log = logging.getLogger(__name__)

_LOOK_S = 1.0
_STANDSTILL_S = 10.0

_lock = threading.Lock()
_watched: weakref.WeakKeyDictionary[_core.PrivateMemory, Callable[[], bool]] = weakref.WeakKeyDictionary()
_thread: threading.Thread | None = None


def watch(memory: _core.PrivateMemory, intact: Callable[[], bool]) -> None:
    """Take care of memory until nobody uses it any more.

    Args:
        memory: What tensors use.
        intact: Whether what the worker has there is right.
    """
    global _thread
    with _lock:
        _watched[memory] = intact
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look, name="yr-fastload-aliases", daemon=True)
            _thread.start()


def is_alias(address: int) -> bool:
    """Whether there is memory at an address that is taken care of here."""
    with _lock:
        return any(memory.address <= address < memory.address + memory.nbytes for memory in _watched)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while a machine sleeps


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
    """Copy everything, and see whether it was right to do so."""
    lost = 0
    for memory, intact in found:
        memory.detach()  # before it is seen to be right, or not
        try:
            right = intact()
        except Exception:  # nobody knows
            right = False
        if not right:
            memory.forbid()
            lost += 1
        with _lock:
            _watched.pop(memory, None)
    if lost:
        _log.critical(
            "this process stood still for %.0f s, and %d of %d chunks of the weights that it shared with its worker "
            "may not be what they were: it ends as soon as it uses them; start it again",
            stood_s,
            lost,
            len(found),
        )
    else:
        _log.warning("this process stood still for %.0f s: it has its own copy of all weights from now on", stood_s)
