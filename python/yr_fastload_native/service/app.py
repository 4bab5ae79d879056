"""The service's HTTP interface."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, ResourceExhaustedError, UnavailableError
from yr_fastload_native.service.fleet import Fleet, Instance
from yr_fastload_native.service.metrics import ServiceMetrics
from yr_fastload_native.service.proxy import Proxy

__all__ = ["app_of", "status_of"]

_STATUS = {InvalidArgumentError: 400, ResourceExhaustedError: 409, UnavailableError: 503}
_ASK_AGAIN_S = 5
# The page has all it needs in itself, and no other site may show it in a frame and have its buttons pressed there.
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


def status_of(fleet: Fleet) -> dict[str, Any]:
    """What ``GET /status`` answers."""
    return {
        "instances": [_status(each, fleet.cold_s) for each in fleet.instances.values()],
        "cold_load_s": fleet.cold_s,
    }


def _status(instance: Instance, cold_s: float | None) -> dict[str, Any]:
    load = instance.load
    launched = instance.launched
    return {
        "id": instance.name,
        "state": instance.state,
        "pid": launched and launched.pid,
        "port": launched and launched.port,
        "url": instance.url,
        "load_source": load and load.source,
        "load_seconds": load and load.seconds,
        "bytes": load and load.bytes,
        "transport": load and load.transport,
        "fallback": load and load.fallback,
        "published": load and load.published,
        "speed_up": cold_s / load.seconds if load and cold_s and load.source == "instance" and load.seconds else None,
        "ready_seconds": instance.ready_s,
        "in_flight": instance.in_flight,
        "served": instance.served,
        "restarts": instance.restarts,
        "error": instance.error,
    }


def app_of(fleet: Fleet, first: int) -> FastAPI:
    """The application.

    Args:
        fleet: What it is about; closed with it.
        first: So many instances are started with it.
    """
    proxy = Proxy(fleet)
    metrics = ServiceMetrics(fleet)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        fleet.scale_out(first)
        try:
            yield
        finally:
            await proxy.close()
            await fleet.close()

    app = FastAPI(
        title="yr-fastload serve", lifespan=lifespan, docs_url=None, redoc_url=None, dependencies=[Depends(_check_name)]
    )

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

    @app.get("/status")
    async def status() -> dict[str, Any]:
        return status_of(fleet)

    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=200 if fleet.pick(set()) else 503)

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        text = resources.files("yr_fastload_native.service").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _PAGE_POLICY})

    app.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)(proxy.forward)
    return app


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())


async def _check_name(request: Request) -> None:
    """Whoever comes by loopback asks by a name of it: another site may have its own name lead here (DNS rebinding)."""
    name = request.url.hostname or ""
    if _is_loopback(request.scope["server"][0]) and not _is_loopback(name):
        raise InvalidArgumentError(
            f"asked for as {name!r}, and this is loopback: ask for 127.0.0.1 or localhost, from a proxy too",
            op=request.url.path[1:],
        )


async def _read(request: Request, kind: type[_Wish]) -> _Wish:
    """The body, whatever type it is said to have (curl calls JSON a form); nothing: all defaults."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise InvalidArgumentError(f"asked by a page of {origin}, which is not this service", op=request.url.path[1:])
    body = await request.body()
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(f"the body is not as it should be: {error}", op=request.url.path[1:]) from None
