"""The service's HTTP interface."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, TypeVar

import attrs
import msgspec
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute

from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from yr_fastload_native.service.access import check_name, check_origin
from yr_fastload_native.service.fleet import Fleet
from yr_fastload_native.service.instance import Instance
from yr_fastload_native.service.metrics import ServiceMetrics
from yr_fastload_native.service.proxy import Proxy
from yr_fastload_native.service.sockets import pass_on
from yr_fastload_native.vllm.phases import trace_of

__all__ = ["app_of", "status_of"]

_STATUS = {InvalidArgumentError: 400, ResourceExhaustedError: 409, UnavailableError: 503}
_ASK_AGAIN_S = 5
_READS = ["GET", "HEAD"]
# The page is self-contained, and no other site may show it in a frame to have its buttons pressed.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


_Wish = TypeVar("_Wish")


class _Out(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 1


class _In(msgspec.Struct, forbid_unknown_fields=True):
    count: int = 1
    ids: list[str] = []


async def status_of(fleet: Fleet) -> dict[str, Any]:
    """What ``GET /status`` answers."""
    return {
        "instances": [_status(each, fleet.cold_s) for each in fleet.instances.values()],
        "cold_load_s": fleet.cold_s,
        "template": await fleet.template(),
    }


def _status(instance: Instance, cold_s: float | None) -> dict[str, Any]:
    load = instance.load
    launched = instance.launched
    return {
        "id": instance.name,
        "state": instance.state,
        "pid": launched and launched.pid,
        "port": launched.port if launched and launched.uds is None else None,
        "url": instance.url,
        "host": load and load.host,
        "load_source": load and load.source,
        "weights_from": load and load.publisher_host,
        "load_seconds": load and load.seconds,
        "bytes": load and load.bytes,
        "transport": load and load.transport,
        "fallback": load and load.fallback,
        "published": load and load.published,
        "lease_trouble": load and load.lease_trouble,
        "speed_up": cold_s / load.seconds if load and cold_s and load.source == "instance" and load.seconds else None,
        "ready_seconds": instance.ready_s,
        "phases": [attrs.asdict(each) for each in instance.phases],
        "from_template": launched and launched.from_template,
        "not_forked": launched and launched.not_forked,
        "in_flight": instance.in_flight,
        "served": instance.served,
        "restarts": instance.restarts,
        "error": instance.error,
    }


def app_of(fleet: Fleet, first: int) -> FastAPI:
    """The application.

    Args:
        fleet: The instances; closed with the application.
        first: Number of instances to start with it.
    """
    proxy = Proxy(fleet)
    metrics = ServiceMetrics(fleet)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await fleet.prepare()
        if first:
            fleet.scale_out(first)
        try:
            yield
        finally:
            await fleet.close()

    # Without its own documentation pages: /docs and /openapi.json are vLLM's.
    app = FastAPI(title="yr-fastload serve", lifespan=lifespan, openapi_url=None, dependencies=[Depends(check_name)])

    @app.exception_handler(FastLoadError)
    async def refused(_: Request, error: FastLoadError) -> JSONResponse:
        status = _STATUS.get(type(error), 500)
        headers = {"Retry-After": str(_ASK_AGAIN_S)} if status == 503 else None
        return JSONResponse({"error": {"code": error.code, "message": str(error)}}, status, headers)

    @app.post("/scaleout", status_code=202)
    async def scaleout(request: Request) -> dict[str, list[str]]:
        return {"instances": fleet.scale_out((await _read(request, _Out)).count)}

    @app.post("/scalein", status_code=202)
    async def scalein(request: Request) -> dict[str, list[str]]:
        wanted = await _read(request, _In)
        return {"instances": fleet.scale_in(wanted.count, wanted.ids)}

    @app.api_route("/status", methods=_READS)
    async def status() -> dict[str, Any]:
        return await status_of(fleet)

    @app.api_route("/health", methods=_READS)
    async def health() -> Response:
        return Response(status_code=200 if fleet.pick(set()) else 503)

    @app.api_route("/metrics", methods=_READS)
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.api_route("/trace", methods=_READS)
    async def trace() -> dict[str, Any]:
        return trace_of([(each.name, each.phases) for each in fleet.instances.values()])

    @app.api_route("/", methods=_READS, response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        text = resources.files("yr_fastload_native.service").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})

    own = {route.path for route in app.routes if isinstance(route, APIRoute)}

    @app.api_route("/{path:path}", methods=[*_READS, "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    async def forward(request: Request) -> Response:
        if request.url.path in own:
            raise HTTPException(405)
        return await proxy.forward(request)

    @app.websocket("/{path:path}")
    async def forward_socket(socket: WebSocket) -> None:
        check_origin(socket)
        await pass_on(socket, fleet)

    return app


async def _read(request: Request, kind: type[_Wish]) -> _Wish:
    """The body, whatever its declared type (curl declares JSON a form); empty: all defaults."""
    check_origin(request)
    body = await request.body()
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(f"invalid body: {error}", op=request.url.path[1:]) from None
