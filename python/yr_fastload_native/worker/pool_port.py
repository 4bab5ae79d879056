"""The port at which a machine says how full its worker's pool is, to whoever asks: the second above the worker's."""

from __future__ import annotations

import contextlib
import socket

from yr_fastload_native.settings import parse_address
from yr_fastload_native.worker.place import HOST
from yr_fastload_native.worker.running import Pool, pool_in

__all__ = ["ask", "listen"]

_ABOVE = 2  # the first one above it is a head's directory
_MOST_PORT = 65535
_ANSWER_S = 2.0
_MAX_ANSWER = 4096


def listen(worker: str) -> socket.socket | None:
    """Where the watcher of this worker answers; None on loopback, where nobody asks, or if the port is taken."""
    host, port = _of(worker)
    if host == HOST or port > _MOST_PORT:
        return None
    with contextlib.suppress(OSError):
        return socket.create_server((host, port), family=_family(host))
    return None


def ask(worker: str) -> Pool | None:
    """The pool of a worker anywhere; None if nobody there says. Two seconds at most, or four."""
    with contextlib.suppress(OSError), socket.create_connection(_of(worker), timeout=_ANSWER_S) as connection:
        return pool_in(connection.recv(_MAX_ANSWER, socket.MSG_WAITALL).decode(errors="replace"))
    return None


def _of(worker: str) -> tuple[str, int]:
    host, port = parse_address(worker, op="worker status")
    return host, port + _ABOVE


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
