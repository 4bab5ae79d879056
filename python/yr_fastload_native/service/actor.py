"""What an actor of a cluster does on its machine: it runs one server process there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.local import LocalLauncher, LocalServer
from yr_fastload_native.service.machine_template import SharedTemplate

__all__ = ["ServerActor"]


class ServerActor:
    """One server. Arguments and results are plain data; `remote.RemoteServer` is the other end.

    Its keeper ends with the actor's process, however that ends. Devices are not chosen here: the cluster has already
    made the actor's devices visible to its process.

    Args:
        logs: Directory on this machine for the log; None: it is not kept.
        address: Returns, on this machine, the address on which the server is to listen.
        machine: Returns by what the cluster knows this machine.
    """

    def __init__(self, logs: str | None, address: Callable[[], str], machine: Callable[[], str] = lambda: "") -> None:
        self._machine = machine
        self._launcher = LocalLauncher(None if logs is None else Path(logs), address())
        self._server: LocalServer | None = None

    def where(self, order: Order) -> dict[str, Any]:
        """What the template of its server has to know: ``machine``, and ``environment`` of the server."""
        return {"machine": self._machine(), "environment": self._launcher.environment(order)}

    def launch(self, order: Order, found: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Start its server.

        Args:
            order: For it.
            found: The machine's template (`MachineTemplate.find`); None: it is not to be forked.

        Returns:
            ``pid``, ``host``, ``port`` and ``machine``, or ``error`` with the reason why there is none;
                ``from_template``, or ``not_forked`` with the reason, and ``lost`` where the template is of no use any
                more.
        """
        template = None if found is None else SharedTemplate(found)
        try:
            self._server = server = self._launcher.launch(order, template)
        except FastLoadError as error:
            return {"error": str(error)}
        told = {"pid": server.pid, "host": server.host, "port": server.port, "machine": self._machine()}
        if template is None:
            return told
        return {
            **told,
            "from_template": server.from_template,
            "not_forked": server.not_forked,
            "lost": template.lost,
        }

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
