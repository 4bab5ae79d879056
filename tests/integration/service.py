"""The service of `yr-fastload serve` with stand-ins for vLLM servers, as a process, and what asks it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

STAND_IN = Path(__file__).with_name("stand_in.py")
WAIT_S = 60.0


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Service:
    def __init__(self, directory: Path, mode: str, **limits: object) -> None:
        self.directory = directory
        command = [sys.executable, str(STAND_IN), "service", str(directory), mode, "--limits", json.dumps(limits)]
        self.process = subprocess.Popen(command, start_new_session=True)
        until((directory / "port").exists, "no service")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{(directory / 'port').read_text()}", timeout=WAIT_S)

    def status(self) -> dict:
        return self.client.get("/status").json()

    def instances(self, state: str | None = None) -> list[dict]:
        return [each for each in self.status()["instances"] if state in (None, each["state"])]

    def until_ready(self, count: int) -> list[dict]:
        until(lambda: len(self.instances("ready")) == count, f"not {count} ready")
        return self.instances("ready")

    def pids(self, name: str) -> list[int]:
        """Of servers that were started, or of their children."""
        path = self.directory / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def left(self) -> list[int]:
        """Processes that instances left behind."""
        return [pid for pid in self.pids("starts") + self.pids("children") if _lives(pid)]

    def end(self) -> None:
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(WAIT_S)


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
