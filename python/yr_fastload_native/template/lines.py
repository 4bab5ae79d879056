"""What the two ends of a template say to each other: lines of JSON on a Unix socket, the first one with descriptors."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

__all__ = ["GO", "receive", "receive_first", "send", "send_first"]

GO = b"\n"  # in answer to a keeper that says it is there
_MOST_BYTES = 16 << 20  # arguments and environment of a process, which the kernel bounds too
_CHUNK = 1 << 16


def send(line: socket.socket, message: dict[str, Any]) -> None:
    """Raises:
    OSError: Nobody is there, or it took longer than the socket's timeout.
    """
    line.sendall(json.dumps(message).encode() + b"\n")


def send_first(line: socket.socket, message: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Send a message that brings open files along; raises as `send`."""
    data = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(line, [data], list(descriptors))
    if sent < len(data):  # else it may have been answered already, and the other end closed
        line.sendall(data[sent:])


def receive(line: socket.socket) -> dict[str, Any]:
    """The next message, and no byte beyond it.

    Raises:
        OSError: Nobody is there any more, or it took longer than the socket's timeout.
        ValueError: It is no message.
    """
    found = b""
    while not found.endswith(b"\n"):
        byte = line.recv(1)
        if not byte:
            raise ConnectionResetError("the other end has gone")
        found += byte
        if len(found) > _CHUNK:
            raise ValueError("a message without an end")
    return _decoded(found)


def receive_first(line: socket.socket, most_descriptors: int) -> tuple[dict[str, Any], list[int]]:
    """What `send_first` sent, after which nothing comes until it was answered; raises as `receive`."""
    data, descriptors, _, _ = socket.recv_fds(line, _CHUNK, most_descriptors)
    found = bytearray(data)
    while not found.endswith(b"\n"):
        data = line.recv(_CHUNK)
        if not data or len(found) > _MOST_BYTES:
            raise ConnectionResetError("half a message")
        found += data
    return _decoded(bytes(found)), descriptors


def _decoded(data: bytes) -> dict[str, Any]:
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a message is an object")
    return message
