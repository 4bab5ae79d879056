"""Keeps pages of other sites from using the service through a browser that can reach it."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["check_name", "check_origin"]


async def check_name(asked: HTTPConnection) -> None:
    """Accept only loopback names on loopback: another site's name may resolve to it (DNS rebinding).

    Raises:
        InvalidArgumentError: The request used another name.
    """
    name = asked.url.hostname or ""
    if _is_loopback(asked.scope["server"][0]) and not _is_loopback(name):
        raise InvalidArgumentError(
            f"requested as {name!r}, but this is loopback: use 127.0.0.1 or localhost, from a proxy too",
            op=asked.url.path[1:],
        )


def check_origin(asked: HTTPConnection) -> None:
    """Refuse requests from pages of other sites that change something or that browsers do not restrict.

    Raises:
        InvalidArgumentError: The request came from such a page.
    """
    origin = asked.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != asked.headers.get("host"):
        raise InvalidArgumentError(f"requested by a page of {origin}, which is not this service", op=asked.url.path[1:])


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())
    # Sockets for both address families show IPv4 addresses like this.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
