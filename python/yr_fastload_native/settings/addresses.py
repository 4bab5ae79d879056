"""Addresses of workers, ``HOST:PORT``."""

from __future__ import annotations

import ipaddress

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["host_of", "is_loopback", "parse_address"]


def parse_address(address: str, *, op: str) -> tuple[str, int]:
    """Split ``HOST:PORT``.

    Raises:
        InvalidArgumentError: It does not have that form, or the port is outside 1..65535.
    """
    host, colon, port = address.rpartition(":")
    if colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return host, int(port)
    raise InvalidArgumentError(f"worker address {address!r} is not HOST:PORT, for example 127.0.0.1:31501", op=op)


def host_of(address: str) -> str:
    """The host of ``HOST:PORT``, without the brackets of an IPv6 address; empty where there is none."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether no other machine reaches what listens on this host; other names than ``localhost`` are not resolved."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
