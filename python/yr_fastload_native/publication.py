"""A generation that this process keeps published."""

from __future__ import annotations

import atexit
import logging
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Generation
from yr_fastload_native.errors import FastLoadError

__all__ = ["LEAVE_S", "Publication", "close_at_exit"]

_log = logging.getLogger(__name__)

LEAVE_S = 2.0


class _Closable(Protocol):
    def close(self) -> None: ...


_open: weakref.WeakSet[_Closable] = weakref.WeakSet()


def close_at_exit(thing: _Closable) -> None:
    """Have it closed in order while the interpreter still runs: its native threads must not outlive that."""
    _open.add(thing)


@atexit.register
def _close_all() -> None:
    for each in list(_open):
        each.close()


class Publication:
    """One identity's weights, published by this process until closed.

    Attributes:
        generation: Name of this version of the weights; every publish of changed weights makes a new one.
        joined: Whether the same bytes were published already, and this process only became one more source.
        seconds: Wall time of the publish.
    """

    def __init__(self, generation: Generation, lease: _core.Lease, *, joined: bool, size: int, seconds: float) -> None:
        self.identity: Mapping[str, Any] = generation.who.fields
        self.generation = generation.manifest.generation
        self.joined = joined
        self.bytes = size
        self.tensors = len(generation.manifest.tensors)
        self.chunks = len(generation.manifest.chunks)
        self.seconds = seconds
        self._lease = lease
        close_at_exit(self)

    @property
    def state(self) -> str:
        """``live``, ``superseded`` (a newer generation took over), ``lost`` (the worker forgot it) or ``left``."""
        return self._lease.status()[0]

    def sources(self) -> int:
        """How many live sources keep this generation published, this one included."""
        return self._lease.sources(deadline_s=LEAVE_S)

    def close(self) -> None:
        """Stop being a source; the last one to close withdraws everything. Idempotent, bounded, never raises."""
        try:
            self._lease.leave(deadline_s=LEAVE_S)
        except FastLoadError as error:
            # As text: a handler that keeps records would keep the traceback, and with it the connection.
            _log.warning("could not withdraw at once, the publication ends with its lease: %s", str(error))

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Publication {self.generation} of {dict(self.identity)!r}: {self.state}, {self.bytes} bytes>"
