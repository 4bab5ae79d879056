"""One instance of a fleet, through all its starts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Literal

from yr_fastload_native.service.connection import Connection
from yr_fastload_native.service.launcher import Launched
from yr_fastload_native.service.weights_origin import WeightsOrigin
from yr_fastload_native.vllm.phases import Phase

__all__ = ["Instance", "State"]

State = Literal["starting", "loading", "ready", "failed", "stopping"]


class Instance:
    """One server, through all its starts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: State = "starting"
        self.error: str | None = None
        self.restarts = 0
        self.in_flight = 0
        self.served = 0
        self.load: WeightsOrigin | None = None
        self.ready_s: float | None = None
        self.phases: list[Phase] = []
        self.launched: Launched | None = None
        self.connection: Connection | None = None
        self.broken: str | None = None
        self.leave = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()
        self.task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str | None:
        return None if self.connection is None else self.connection.url

    def give_up(self, why: str) -> None:
        """Send it nothing more, and have it restarted."""
        self.broken = why
        if self.state == "ready":
            self.state = "failed"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Count one request, which draining waits for."""
        self.in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            self.served += 1
            if not self.in_flight:
                self.idle.set()
