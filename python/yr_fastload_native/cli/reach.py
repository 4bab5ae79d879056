"""Whether something listens at an address."""

from __future__ import annotations

import socket

from yr_fastload_native.settings import parse_address

__all__ = ["is_reachable"]

_REACH_S = 2.0


def is_reachable(address: str) -> bool:
    """Whether ``HOST:PORT`` can be connected to from here, within two seconds."""
    host, port = parse_address(address, op="worker status")
    try:
        socket.create_connection((host, port), timeout=_REACH_S).close()
    except OSError:
        return False
    return True
