"""Servers on the machines of an openYuanrong cluster, each in its own actor. Needs the extra ``yr``."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from yr.apis import finalize, get, get_node_ip_address, init, instance, wait
from yr.config import Config, InvokeOptions

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.service.actor import ServerActor
from yr_fastload_native.service.launcher import Devices, Order
from yr_fastload_native.service.machine import MachineDevices
from yr_fastload_native.service.machine_template import MachineTemplate, MachineTemplates
from yr_fastload_native.service.remote import ActorGoneError, RemoteServer, launch_on, one_line

__all__ = ["YrLauncher"]

_LEAST_MILLICPUS = 300  # openYuanrong's minimum for an actor
_NOWHERE = "127.0.0.1:1"  # without an address the SDK looks for a cluster even in local mode, and complains


class YrLauncher:
    """Starts each server in an actor (a stateful instance), for which openYuanrong chooses machine and devices.

    The cluster is the one that ``YR_SERVER_ADDRESS`` names; without it, the SDK's local mode: actors are objects in
    this process, nothing is scheduled, and no devices are assigned.

    Args:
        logs: Directory for the logs, on each machine; None: they are not kept.
        cpus: CPUs that openYuanrong reserves for each server, in addition to devices; at least 0.3.
        place_s: Time limit for openYuanrong to find a machine and start the actor there, seconds.
        forks: Whether servers are forked from a template where that is possible: in local mode. On a cluster it is not,
            since an actor cannot be placed beside another.

    Raises:
        UnavailableError: There is no openYuanrong at that address.
    """

    def __init__(
        self, logs: Path | None = None, cpus: float = 0.0, place_s: float = 60.0, *, forks: bool = False
    ) -> None:
        self._logs = None if logs is None else str(logs.absolute())
        self._cpus = cpus
        self._place_s = place_s
        self._address = os.environ.get("YR_SERVER_ADDRESS")
        self._templates = MachineTemplates(_template_here) if forks and not self._address else None
        try:
            init(Config(local_mode=not self._address, server_address=self._address or _NOWHERE))
        except Exception as error:  # the SDK raises many kinds
            where = f"reach openYuanrong at YR_SERVER_ADDRESS={self._address}" if self._address else "start local mode"
            raise UnavailableError(f"cannot {where}: {one_line(error)}", op="serve") from None

    @property
    def devices(self) -> Devices:
        """Devices of the kind that this machine has; how many the cluster has is unknown."""
        return Devices(MachineDevices.here().devices.kind) if self._address else Devices()

    def prepare(self, order: Order) -> None:
        """Nothing: there is a template with the first server."""

    def template(self) -> dict[str, Any] | None:
        return None if self._templates is None else self._templates.status()

    def launch(self, order: Order) -> RemoteServer:
        options = InvokeOptions(
            cpu=max(_LEAST_MILLICPUS, math.ceil(self._cpus * 1000)),
            schedule_timeout_ms=math.ceil(self._place_s * 1000),
        )
        asked = f"{options.cpu / 1000:g} CPU"
        if order.devices:
            kind = self.devices.kind
            options.custom_resources = {f"{kind}/.+/count": float(order.devices)}  # of any model
            asked += f", {order.devices} {kind}"

        def make() -> _YrActor:
            address = get_node_ip_address if self._address else _loopback
            return _YrActor(instance(ServerActor).options(options).invoke(self._logs, address))

        return launch_on(make, order, self._place_s, lambda: f"{asked} on one machine asked for", self._templates)

    def close(self) -> None:
        if self._templates is not None:
            self._templates.close()
        finalize()


class _YrActor:
    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def ask(self, method: str, bound_s: float, *arguments: Any) -> Any:
        try:
            asked = getattr(self._proxy, method).invoke(*arguments)
            # Not `get` with a timeout: in local mode that makes it return None.
            ready, _ = wait(asked, timeout=math.ceil(bound_s))
            if ready:
                return get(asked)
        except Exception as error:  # whatever it is, there will be no answer
            raise ActorGoneError(one_line(error)) from None
        raise TimeoutError(f"no answer within {bound_s:g} s")

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._proxy.terminate()


def _template_here(_: str) -> _YrActor:
    return _YrActor(instance(MachineTemplate).invoke())


def _loopback() -> str:
    return "127.0.0.1"
