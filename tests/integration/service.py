"""The service of `yr-fastload serve` with stand-ins for vLLM servers, as a process, and what asks it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

from yr_fastload_native.measuring.fork_server import ForkServer

from ..waiting import wait_until

STAND_IN = f"{__package__}.stand_in"
_AHEAD = ("attrs", "fastapi", "httpx", "msgspec", "prometheus_client", "psutil", "uvicorn")
WAIT_S = 60.0


@functools.cache
def _fork_server() -> ForkServer:
    server = ForkServer(_AHEAD, os.environ)
    atexit.register(server.close)
    return server


def until(true: Callable[[], object], what: str) -> None:
    assert wait_until(true, WAIT_S), what


class Service:
    """Of stand-ins, in a process of its own.

    Args:
        directory: For what they write.
        mode: Of the stand-ins.
        limits: Of the fleet.
        arguments: More of `stand_in`.
        environment: Beside that of this process.
    """

    def __init__(
        self,
        directory: Path,
        mode: str = "well",
        *,
        limits: Mapping[str, object],
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        told = ["service", str(directory), mode, "--limits", json.dumps(limits), *arguments]
        self._channel, its_own = socket.socketpair()
        with its_own, (directory / "service.log").open("wb") as log:
            self.process = _fork_server().fork(
                STAND_IN, json.dumps(told), {**os.environ, **(environment or {})}, its_own, log
            )
        until((directory / "port").exists, "no service")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{(directory / 'port').read_text()}", timeout=WAIT_S)

    def status(self) -> dict:
        return self.client.get("/status").json()

    def instances(self, state: str | None = None) -> list[dict]:
        return [each for each in self.status()["instances"] if state in (None, each["state"])]

    def until_ready(self, count: int) -> list[dict]:
        until(lambda: len(self.instances("ready")) == count, f"not {count} ready")
        return self.instances("ready")

    def end_with_two(self, number: int) -> int:
        """Add a second instance and end the service by a signal: nobody is left. Its status."""
        self.client.post("/scaleout")
        self.until_ready(2)
        assert len(self.left()) == 4
        self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        until(lambda: not self.left(), "processes are left")
        return status

    def pids(self, name: str) -> list[int]:
        """Of servers that were started, or of their children."""
        path = self.directory / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def left(self) -> list[int]:
        """Processes that instances left behind."""
        return [pid for pid in self.pids("starts") + self.pids("children") if lives(pid)]

    def end(self) -> None:
        """Stop it, and see that it leaves nobody."""
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)
        self._channel.close()
        until(lambda: not self.left(), "processes are left")


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
