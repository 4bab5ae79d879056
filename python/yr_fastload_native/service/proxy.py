"""Forwards requests to instances in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError
from yr_fastload_native.service.access import check_origin
from yr_fastload_native.service.changes import is_change
from yr_fastload_native.service.connection import Call, Headers
from yr_fastload_native.service.fleet import Fleet
from yr_fastload_native.service.instance import Instance

__all__ = ["Proxy", "headers_of", "target_of"]

_MOST_BODY_BYTES = 256 << 20
_DELIVERIES = 2
_KEPT_BY_ONE = "/v1/responses"  # and below: only the instance that created a response knows it
# Headers of one connection, not of the message (RFC 9110, 7.6.1), and those that client and server set themselves.
_OF_A_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_TO_INSTANCE = _OF_A_HOP | {b"content-length", b"expect"}
_TO_CLIENT = _OF_A_HOP | {b"date", b"server"}


class Proxy:
    """Forwards requests to the ready instances of a fleet, round robin.

    If connecting to an instance fails, the request goes to the next one. If an instance may have received it but
    answered nothing, it is sent once more, to another instance if there is one: a connection can close just as it is
    used, and repeating a request to vLLM is harmless. It is not sent a third time, since it may be what kills
    instances. Once an answer has begun, it is forwarded as it comes, event by event, and ends where it ends. If the
    client disconnects, the instance is told. Calls that change instances go to all of them, once.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def forward(self, request: Request) -> Response:
        """Raises:
        InvalidArgumentError: The body is too large to keep for a second attempt, or another site's page requests a
        change.
        UnavailableError: No instance is ready, or none of the ready ones answered.
        FastLoadError: Some instances refused a change that others made.
        """
        call = Call(request.method, target_of(request), headers_of(request), await _body(request))
        if not is_change(call):
            return await self._pass_on(call, request)
        check_origin(request)
        async with self._fleet.changes.lock:
            if instances := self._fleet.ready():
                return await self._fleet.changes.make(call, instances)
        raise _nobody()

    async def _pass_on(self, call: Call, request: Request) -> Response:
        tried: set[str] = set()
        unreached: set[str] = set()
        lost: list[str] = []
        while instance := self._fleet.pick(tried) or (self._fleet.pick(unreached) if lost else None):
            tried.add(instance.name)
            with contextlib.ExitStack() as stack:
                stack.enter_context(instance.serving())
                try:
                    answer = await self._begin(instance, call, request)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    unreached.add(instance.name)
                    continue
                except httpx.HTTPError as error:
                    lost.append(f"{instance.name} ({type(error).__name__})")
                    if len(lost) == _DELIVERIES:
                        break
                    continue
                if answer is None:
                    return Response(status_code=499)  # the client has gone
                if answer.status_code == 404 and call.path.startswith(_KEPT_BY_ONE) and self._fleet.pick(tried):
                    await answer.aclose()
                    continue
                headers = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in _TO_CLIENT]
                headers.append((b"x-served-by", instance.name.encode()))
                return _PassedOn(answer, headers, stack.pop_all())
        if lost:
            raise UnavailableError(
                f"ended while handling the request, before answering: {', '.join(lost)}; send it again", op="forward"
            )
        raise _nobody(tried)

    @staticmethod
    async def _begin(instance: Instance, call: Call, request: Request) -> httpx.Response | None:
        """The beginning of the answer; None if the client disconnected before."""
        assert instance.connection is not None
        answer = asyncio.create_task(instance.connection.begin(call))
        gone = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return await answer if answer.done() else None
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.wait({answer, gone})


def target_of(asked: HTTPConnection) -> bytes:
    """Path and query, exactly as the client sent them."""
    scope = asked.scope
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return path + (b"?" + query if query else b"")


def headers_of(asked: HTTPConnection) -> Headers:
    """The headers, without those of the client's connection."""
    named = {
        each.strip().lower().encode("latin-1")
        for value in asked.headers.getlist("connection")
        for each in value.split(",")
    }
    return [(key, value) for key, value in asked.headers.raw if key not in _TO_INSTANCE | named]


def _nobody(tried: Collection[str] = ()) -> UnavailableError:
    return UnavailableError(
        "no instance could be connected to" if tried else "no instance is ready; GET /status has their states",
        op="forward",
    )


async def _body(request: Request) -> bytes:
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > _MOST_BODY_BYTES:
            raise InvalidArgumentError(f"a body of more than {_MOST_BODY_BYTES >> 20} MiB", op="forward")
    return bytes(parts)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _PassedOn(StreamingResponse):
    """An instance's answer as it came, still compressed if it was. ``stack`` is closed with it."""

    def __init__(self, answer: httpx.Response, headers: list[tuple[bytes, bytes]], stack: contextlib.ExitStack) -> None:
        super().__init__(answer.aiter_raw(), status_code=answer.status_code)
        self.raw_headers = headers
        self._answer = answer
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._answer.aclose()
