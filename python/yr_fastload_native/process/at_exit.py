"""Cleanup before the interpreter exits: transfers end, publications are withdrawn, connections are closed."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from yr_fastload_native import _core

__all__ = ["anything_open", "close_all", "close_at_exit", "leave", "under_way"]

# Time for calls to end once asked to. Those waiting for a silent worker take longer, and are abandoned.
_END_S = 5.0


class _Closable(Protocol):
    def close(self) -> None: ...


_open: weakref.WeakSet[_Closable] = weakref.WeakSet()
_changed = threading.Condition()
_calls = 0


def close_at_exit(thing: _Closable) -> None:
    """Close this object while the interpreter still runs, because its native threads must not outlive that."""
    _open.add(thing)


def anything_open() -> bool:
    """Whether this process publishes, or is connected."""
    return bool(_open)


def close_all() -> None:
    """Withdraw everything that this process publishes, and disconnect."""
    for each in list(_open):
        each.close()


@contextmanager
def under_way() -> Iterator[None]:
    """Marks a call, on any thread, that the interpreter's exit asks to end and waits for."""
    global _calls
    with _changed:
        _calls += 1
    try:
        yield
    finally:
        with _changed:
            _calls -= 1
            _changed.notify_all()


@atexit.register
def leave() -> None:
    """What is done once, at the end of the interpreter."""
    _core.end_transfers()
    with _changed:
        _changed.wait_for(lambda: not _calls, _END_S)
    close_all()
    _core.expect_exit()


def _forget() -> None:
    """In a forked child, everything belongs to the parent."""
    global _changed, _calls
    _open.clear()
    _changed = threading.Condition()
    _calls = 0


os.register_at_fork(after_in_child=_forget)
