"""How the service speaks to one server: over TCP or a Unix socket, with TLS or without."""

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

from yr_fastload_native.service.instances import Launched

__all__ = ["Call", "Connection", "Headers", "url_of"]

Headers = Sequence[tuple[bytes, bytes]]

_CONNECT_S = 5.0
# Shorter than servers keep an idle connection (uvicorn: 5 s), so that none is used as it is closed at the other end.
_IDLE_S = 4.0


@attrs.frozen
class Call:
    """A request as it is passed on.

    Attributes:
        method: Of HTTP.
        target: Path and query, as the client wrote them.
        headers: Those that are not of one connection.
        body: All of it.
    """

    method: str
    target: bytes
    headers: Headers
    body: bytes = b""

    @property
    def path(self) -> str:
        """Decoded, without the slash at its end with which servers take a path too."""
        return unquote(self.target.partition(b"?")[0].decode("ascii", "replace")).rstrip("/")


class Connection:
    """To one server.

    Whether it speaks TLS is found out by asking. Its certificate is not looked at: what is known of a server is where
    it listens, which its launcher said.

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
            # An answer takes what it takes: its bound is the client's, who may go.
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    @property
    def url(self) -> str:
        """As it is written: ``unix:PATH`` for a socket."""
        return str(self._url) if self._uds is None else f"unix:{self._uds}"

    async def is_well(self, bound_s: float) -> bool:
        """Whether its health is good; if not, ``said`` is what came instead."""
        said = []
        for scheme in self._schemes:
            url = self._url.copy_with(scheme=scheme, raw_path=b"/health")
            try:
                answer = await self._client.get(url, timeout=bound_s)
            except httpx.HTTPError as error:
                said.append(f"{type(error).__name__} {error}".strip())
                if isinstance(error, (httpx.ConnectError, httpx.TimeoutException)):
                    break
                continue  # as who was asked without TLS, and speaks it
            self._schemes, self._url = (scheme,), self._url.copy_with(scheme=scheme)
            said.append(f"status {answer.status_code}")
            if answer.is_success:
                return True
            break
        self.said = ", ".join(said)
        return False

    async def begin(self, call: Call) -> httpx.Response:
        """The beginning of its answer, to be closed.

        Raises:
            httpx.ConnectError: It did not get the call.
            httpx.ConnectTimeout: It did not get the call.
            httpx.HTTPError: It may have got it.
        """
        url = self._url.copy_with(raw_path=call.target)
        return await self._client.send(
            self._client.build_request(call.method, url, headers=list(call.headers), content=call.body), stream=True
        )

    async def open(self, call: Call, subprotocols: Sequence[str]) -> ClientConnection:
        """A WebSocket, to be closed.

        Raises:
            websockets.exceptions.InvalidStatus: It answered otherwise.
            OSError: There is no answer, or none in time.
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
    """With brackets around an address of IPv6."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
