"""The service of `yr-fastload serve` and what stands for its instances, all in this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from yr_fastload_native.service.app import app_of
from yr_fastload_native.service.fleet import Fleet, Limits
from yr_fastload_native.service.launcher import Devices, Order
from yr_fastload_native.vllm.phases import Phase

from ..waiting import wait_until

WAIT_S = 30.0


class Running:
    """An application that is served from a thread until it is stopped."""

    def __init__(self, app: Any, uds: str | None = None, **told: Any) -> None:
        self._listener = socket.socket(socket.AF_INET if uds is None else socket.AF_UNIX)
        self._listener.bind(("127.0.0.1", 0) if uds is None else uds)
        self.port = self._listener.getsockname()[1] if uds is None else 0
        self._server = uvicorn.Server(uvicorn.Config(app, interface="asgi3", log_level="critical", **told))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        assert wait_until(lambda: self._server.started or not self._thread.is_alive(), WAIT_S)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


class StandIn:
    """What is like vLLM's server as far as the service is concerned; it notes what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.adapters: set[str] = set()
        self.responses: set[str] = set()
        self.lose = 0  # so many requests are dropped with their connection
        self.refuse: dict[str, int] = {}
        self.headers: dict[str, str] = {}
        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        self._paths = Starlette(
            routes=[
                WebSocketRoute("/v1/realtime", self._socket),
                Route("/health", lambda _: Response()),
                Route("/{path:path}", self._answer, methods=methods),
            ]
        )

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.lose and scope["path"] != "/health":
            self.lose -= 1
            self.calls.append((scope["method"], scope["path"]))
            send.__self__.transport.abort()  # type: ignore[attr-defined]  # uvicorn's
        else:
            await self._paths(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        path = request.scope["raw_path"].decode().rstrip("/")
        self.calls.append((request.method, path))
        self.headers = dict(request.headers)
        if path in self.refuse:
            return JSONResponse({"error": "no"}, self.refuse[path])
        if path == "/v1/load_lora_adapter":
            self.adapters.add((await request.json())["lora_name"])
            return Response("Success")
        if path == "/v1/unload_lora_adapter":
            self.adapters.discard((await request.json())["lora_name"])
            return Response("Success")
        if path == "/collective_rpc":
            return JSONResponse({"results": [id(self)]})
        if path.startswith("/v1/responses/") and path.rpartition("/")[2] not in self.responses:
            return JSONResponse({"error": "not found"}, 404)
        return Response(body or path, headers={"x-me": str(id(self))})

    async def _socket(self, client: WebSocket) -> None:
        if client.query_params.get("refuse"):
            await client.send_denial_response(Response("no such model", 404))
            return
        await client.accept(next(iter(client.scope["subprotocols"]), None))
        while (message := await client.receive())["type"] != "websocket.disconnect":
            if message.get("text") == "end":
                await client.close(4001, "as asked")
                return
            if "bytes" in message and message["bytes"] is not None:
                await client.send_bytes(message["bytes"][::-1])
            else:
                await client.send_text(message["text"].upper())


@attrs.define
class Started:
    """As `Launched` says."""

    running: Running
    port: int
    uds: str | None
    host: str = "127.0.0.1"
    pid: int | None = None
    from_template: bool = False
    not_forked: str | None = None

    def ended(self) -> str | None:
        return None

    def events(self) -> list[dict[str, Any]]:
        return []

    def is_ready(self) -> list[Phase]:
        return []

    def stop(self) -> None:
        self.running.stop()


class StandIns:
    """Launcher of them.

    Args:
        told: To uvicorn, of each.
        sockets: Where each listens on a socket of its own; None: on ports.
    """

    devices = Devices()

    def __init__(self, sockets: Path | None = None, **told: Any) -> None:
        self.made: list[StandIn] = []
        self._sockets = sockets
        self._told = told

    def prepare(self, order: Order) -> None:
        pass

    def template(self) -> dict[str, Any] | None:
        return None

    def launch(self, order: Order) -> Started:
        stand_in = StandIn()
        self.made.append(stand_in)
        uds = None if self._sockets is None else str(self._sockets / order.name)
        running = Running(stand_in.app, uds, **self._told)
        return Started(running, running.port, uds)

    def close(self) -> None:
        pass


class Served:
    """The service, and a client of it."""

    def __init__(self, launcher: StandIns, instances: int, **told: Any) -> None:
        self.launcher = launcher
        limits = Limits(backoff_s=0.01, drain_s=1.0, start_s=10.0)
        self.fleet = Fleet(launcher, lambda name: Order(name, [], {}, 1.0), limits)
        self.running = Running(app_of(self.fleet, instances), **told)
        self.url = f"http://127.0.0.1:{self.running.port}"
        self.client = httpx.Client(base_url=self.url, timeout=WAIT_S, trust_env=False)
        self.until_ready(instances)

    def until_ready(self, count: int) -> None:
        assert wait_until(lambda: len(self.ready()) == count, WAIT_S), self.client.get("/status").text

    def ready(self) -> list[dict[str, Any]]:
        return [each for each in self.client.get("/status").json()["instances"] if each["state"] == "ready"]


@contextlib.contextmanager
def served(instances: int = 1, launcher: StandIns | None = None, **told: Any) -> Iterator[Served]:
    """Until the block ends."""
    service = Served(launcher or StandIns(), instances, **told)
    try:
        yield service
    finally:
        service.client.close()
        service.running.stop()
