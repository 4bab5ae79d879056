"""How the service talks to one server: over TCP or a Unix socket, with or without TLS."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import attrs
import httpx
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from yr_fastload_native.service.launcher import Launched

__all__ = ["Call", "Connection", "Headers", "url_of"]

Headers = Sequence[tuple[bytes, bytes]]

_CONNECT_S = 5.0
# Shorter than servers keep an idle connection (uvicorn: 5 s), so that none is used while the other end closes it.
_IDLE_S = 4.0


@attrs.frozen
class Call:
    """A request to forward.

    Attributes:
        method: The HTTP method.
        target: Path and query, as the client wrote them.
        headers: Without those that belong to one connection.
        body: The whole body.
    """

    method: str
    target: bytes
    headers: Headers
    body: bytes = b""

    @property
    def path(self) -> str:
        """Decoded, without a trailing slash, which servers accept too."""
        return unquote(self.target.partition(b"?")[0].decode("ascii", "replace")).rstrip("/")


class Connection:
    """A connection to one server.

    Whether it uses TLS is found out by trying. Its certificate is not verified: all we know about a server is where it
    listens, from its launcher.

    Args:
        launched: The server.
    """

    def __init__(self, launched: Launched) -> None:
        self._uds = launched.uds
        self._url = httpx.URL(url_of("http", launched.host, launched.port) if self._uds is None else "http://localhost")
        self._schemes: Sequence[str] = ("http", "https")
        self.said = "nothing was asked"
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(
                verify=False,
                trust_env=False,
                uds=self._uds,
                limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_S),
            ),
            # No time limit for answers: that is up to the client, which can disconnect.
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """In printable form: ``unix:PATH`` for a socket."""
        return str(self._url) if self._uds is None else f"unix:{self._uds}"

    async def is_well(self, bound_s: float) -> bool:
        """Whether its health check succeeds; if not, ``said`` is what came instead."""
        said = []
        for scheme in self._schemes:
            url = self._url.copy_with(scheme=scheme, raw_path=b"/health")
            try:
                answer = await self._client.get(url, timeout=bound_s)
            except httpx.HTTPError as error:
                said.append(f"{type(error).__name__} {error}".strip())
                if isinstance(error, (httpx.ConnectError, httpx.TimeoutException)):
                    break
                continue  # the server expects TLS
            self._schemes, self._url = (scheme,), self._url.copy_with(scheme=scheme)
            said.append(f"status {answer.status_code}")
            if answer.is_success:
                return True
            break
        self.said = ", ".join(said)
        return False

    async def begin(self, call: Call) -> httpx.Response:
        """Send a call, and return the beginning of the answer, which the caller must close.

        Raises:
            httpx.ConnectError: It did not get the call.
            httpx.ConnectTimeout: It did not get the call.
            httpx.HTTPError: It may have got the call.
        """
        url = self._url.copy_with(raw_path=call.target)
        return await self._client.send(
            self._client.build_request(call.method, url, headers=list(call.headers), content=call.body), stream=True
        )

    async def open(self, call: Call, subprotocols: Sequence[str]) -> ClientConnection:
        """Open a WebSocket, which the caller must close.

        Raises:
            websockets.exceptions.InvalidStatus: The server refused.
            OSError: There was no answer, or none in time.
            websockets.exceptions.InvalidHandshake: The answer makes no sense.
        """
        secure = self._url.scheme == "https"
        url = self._url.copy_with(scheme="wss" if secure else "ws", raw_path=call.target)
        where: dict[str, Any] = {} if self._uds is None else {"unix": True, "path": self._uds}
        return await websockets.connect(
            str(url),
            ssl=_unverified() if secure else None,
            additional_headers=[(key.decode("latin-1"), value.decode("latin-1")) for key, value in call.headers],
            subprotocols=[Subprotocol(each) for each in subprotocols] or None,
            open_timeout=_CONNECT_S,
            ping_interval=None,
            max_size=None,
            proxy=None,
            compression=None,
            user_agent_header=None,
            **where,
        )

    async def close(self) -> None:
        await self._client.aclose()


def url_of(scheme: str, host: str, port: int) -> str:
    """The URL, with brackets around an IPv6 address."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
