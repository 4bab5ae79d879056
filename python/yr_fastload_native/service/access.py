"""Who may ask the service: pages of other sites may not, by a browser that can reach it."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["check_name", "check_origin"]


async def check_name(asked: HTTPConnection) -> None:
    """Whoever comes by loopback asks by a name of it: another site may have its own name lead here (DNS rebinding).

    Raises:
        InvalidArgumentError: It was asked by another name.
    """
    name = asked.url.hostname or ""
    if _is_loopback(asked.scope["server"][0]) and not _is_loopback(name):
        raise InvalidArgumentError(
            f"asked for as {name!r}, and this is loopback: ask for 127.0.0.1 or localhost, from a proxy too",
            op=asked.url.path[1:],
        )


def check_origin(asked: HTTPConnection) -> None:
    """Refuse what changes something, or what browsers let any page ask, to pages of other sites.

    Raises:
        InvalidArgumentError: Such a page asks.
    """
    origin = asked.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != asked.headers.get("host"):
        raise InvalidArgumentError(f"asked by a page of {origin}, which is not this service", op=asked.url.path[1:])


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())
    # As sockets for both kinds of addresses have one of IPv4.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
