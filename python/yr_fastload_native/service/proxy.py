"""Requests passed on to instances, in turn."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError
from yr_fastload_native.service.fleet import Fleet, Instance

__all__ = ["Proxy"]

_CONNECT_S = 5.0
_MOST_BODY_BYTES = 256 << 20
# Of one connection, not of the message (RFC 9110, 7.6.1); and what the client and this server set themselves.
_OF_A_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
_TO_INSTANCE = _OF_A_HOP | {b"host", b"content-length"}
_TO_CLIENT = _OF_A_HOP | {b"date", b"server"}


class Proxy:
    """Passes requests on to the ready instances of a fleet, round robin.

    A request that an instance did not take (it could not be connected to) goes to the next one. What it began to answer
    is passed on as it comes, event by event, and ends where it ends; when the client goes, the instance is told.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        # An answer takes what it takes: its bound is the client's, who may go.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=_CONNECT_S), limits=httpx.Limits(max_connections=None), trust_env=False
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def forward(self, request: Request) -> Response:
        """Raises:
        InvalidArgumentError: The body is larger than what is kept for a second try.
        UnavailableError: No instance is ready, or none of the ready ones could be reached.
        """
        body = await _body(request)
        tried: set[str] = set()
        while (instance := self._fleet.pick(tried)) is not None:
            tried.add(instance.name)
            with contextlib.ExitStack() as stack:
                stack.enter_context(instance.serving())
                try:
                    answer = await self._send(instance, request, body)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
                except httpx.HTTPError as error:
                    raise UnavailableError(
                        f"{instance.name} went while it had the request: {type(error).__name__}; send it again",
                        op="forward",
                    ) from None
                if answer is None:
                    return Response(status_code=499)  # nobody is there to read it
                headers = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in _TO_CLIENT]
                headers.append((b"x-served-by", instance.name.encode()))
                return _PassedOn(answer, headers, stack.pop_all())
        raise UnavailableError(
            "no instance could be connected to" if tried else "no instance is ready; GET /status has their states",
            op="forward",
        )

    async def _send(self, instance: Instance, request: Request, body: bytes) -> httpx.Response | None:
        """The beginning of the answer; None if the client went before."""
        query = f"?{request.url.query}" if request.url.query else ""
        headers = [(key, value) for key, value in request.headers.raw if key not in _TO_INSTANCE]
        passed = self._client.build_request(
            request.method, f"{instance.url}{request.url.path}{query}", headers=headers, content=body
        )
        answer = asyncio.create_task(self._client.send(passed, stream=True))
        gone = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            return await answer if answer.done() else None
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.wait({answer, gone})


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
    """An answer of an instance as it came, compressed if it was. ``stack`` ends with it, or when the client goes."""

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
