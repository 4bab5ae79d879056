"""Forwards WebSockets to an instance."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import WebSocket
from fastapi.responses import PlainTextResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from yr_fastload_native.service.connection import Call
from yr_fastload_native.service.fleet import Fleet
from yr_fastload_native.service.proxy import headers_of, target_of

__all__ = ["pass_on"]

_WENT = 1011  # closed because of a server error (RFC 6455, 7.4.1)


async def pass_on(client: WebSocket, fleet: Fleet) -> None:
    """Forward both ways, message by message, until one side closes. If the instance refuses, so does this."""
    headers = [(key, value) for key, value in headers_of(client) if not key.startswith(b"sec-websocket-")]
    call = Call("GET", target_of(client), [each for each in headers if each[0] != b"host"])
    tried: set[str] = set()
    while instance := fleet.pick(tried):
        tried.add(instance.name)
        assert instance.connection is not None
        with instance.serving():
            try:
                server = await instance.connection.open(call, client.scope["subprotocols"])
            except InvalidStatus as error:
                answer = error.response
                await client.send_denial_response(
                    PlainTextResponse(bytes(answer.body or b"").decode(errors="replace"), answer.status_code)
                )
                return
            except (OSError, InvalidHandshake):
                continue
            async with server:
                await client.accept(server.subprotocol)
                await _both_ways(client, server)
            return
    await client.send_denial_response(PlainTextResponse("no instance is ready; GET /status has their states", 503))


async def _both_ways(client: WebSocket, server: ClientConnection) -> None:
    ways = [asyncio.create_task(_up(client, server)), asyncio.create_task(_down(server, client))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
    for way in ways:
        if not way.cancelled():
            way.result()


async def _up(client: WebSocket, server: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):  # which the other direction reports
        while (message := await client.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            await server.send(message["bytes"] if text is None else text)


async def _down(server: ClientConnection, client: WebSocket) -> None:
    with contextlib.suppress(WebSocketDisconnect):  # the client has gone
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = await server.recv()
                await (client.send_text(message) if isinstance(message, str) else client.send_bytes(message))
        code = server.close_code
        await client.close(code if code is not None and code not in (1005, 1006, 1015) else _WENT, server.close_reason)
