"""What an actor of a cluster does on its machine: it runs one server process there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.local import LocalLauncher, LocalServer

__all__ = ["ServerActor"]


class ServerActor:
    """One server. Arguments and results are plain data; `remote.RemoteServer` is the other end.

    Its keeper ends with the actor's process, however that ends. Devices are not chosen here: the cluster has already
    made the actor's devices visible to its process.

    Args:
        logs: Directory on this machine for the log; None: it is not kept.
        address: Returns, on this machine, the address on which the server is to listen.
    """

    def __init__(self, logs: str | None, address: Callable[[], str]) -> None:
        self._launcher = LocalLauncher(None if logs is None else Path(logs), address())
        self._server: LocalServer | None = None

    def launch(self, order: Order) -> dict[str, Any]:
        """``pid``, ``host`` and ``port`` of its server, or ``error`` with the reason why there is none."""
        try:
            self._server = self._launcher.launch(order)
        except FastLoadError as error:
            return {"error": str(error)}
        return {"pid": self._server.pid, "host": self._server.host, "port": self._server.port}

    def ended(self) -> str | None:
        return "it was never started" if self._server is None else self._server.ended()

    def events(self) -> list[dict[str, Any]]:
        return [] if self._server is None else self._server.events()

    def is_ready(self) -> list[dict[str, Any]]:
        """What its start took, as `vllm.phases.Phase` has it."""
        return [] if self._server is None else [attrs.asdict(each) for each in self._server.is_ready()]

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._launcher.close()
