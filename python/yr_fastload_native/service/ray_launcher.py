"""Servers on the machines of a Ray cluster, each in its own actor. Needs the extra ``ray``."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if not os.environ.get("RAY_ADDRESS"):
    # Keeps a single-machine Ray on loopback. There is no other way; Ray reads this when it is imported.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.service.actor import ServerActor
from yr_fastload_native.service.launcher import Devices, Kind, Order
from yr_fastload_native.service.machine_template import MachineTemplate, MachineTemplates
from yr_fastload_native.service.remote import ActorGoneError, RemoteServer, launch_on, one_line
from yr_fastload_native.service.spread import Spread

__all__ = ["RayLauncher"]

_KINDS: tuple[Kind, ...] = ("NPU", "GPU")  # Ray uses the same names
_KNOCK_S = 5.0
_AT_ONCE = 8  # questions to the template of a machine, some of which wait until it has imported
_STORE_BYTES = 80 << 20  # of a local Ray, which carries no weights; 75 MiB is Ray's minimum


class RayLauncher:
    """Starts each server in an actor, on the machine that has the fewest of them for its size; Ray chooses devices.

    The cluster is the one that ``RAY_ADDRESS`` names; without it, a new Ray on this machine, which ends with the
    launcher. Actors end with this process, however it ends. Create it in the main thread.

    Args:
        logs: Directory for the logs, on each machine; None: they are not kept.
        cpus: CPUs that Ray reserves for each server, in addition to devices.
        place_s: Time limit for Ray to find a machine and start the actor there, seconds.
        forks: Whether servers are forked from a template of their machine where that is possible.

    Raises:
        UnavailableError: There is no Ray at that address, or a new one cannot be started.
    """

    def __init__(
        self, logs: Path | None = None, cpus: float = 0.0, place_s: float = 60.0, *, forks: bool = False
    ) -> None:
        self._templates = MachineTemplates(_template_on) if forks else None
        self._spread = Spread()
        self._logs = None if logs is None else str(logs.absolute())
        self._cpus = cpus
        self._place_s = place_s
        _connect()
        has = ray.cluster_resources()
        kind = next((kind for kind in _KINDS if has.get(kind)), None)
        self._devices = Devices(kind, None if kind is None else int(has[kind]))

    @property
    def devices(self) -> Devices:
        """The devices of the whole cluster, as it was at the start."""
        return self._devices

    def prepare(self, order: Order) -> None:
        """Nothing: a machine gets its template with its first server."""

    def template(self) -> dict[str, Any] | None:
        return None if self._templates is None else self._templates.status()

    def launch(self, order: Order) -> RemoteServer:
        wanted: dict[str, float] = {"CPU": self._cpus}
        if self._devices.kind is not None:
            wanted[self._devices.kind] = order.devices
        asked = {name: count for name, count in wanted.items() if count}
        options = {
            "num_cpus": asked.get("CPU", 0),
            "num_gpus": asked.get("GPU", 0),
            "resources": {name: count for name, count in asked.items() if name not in ("CPU", "GPU")},
        }

        with self._spread.place(_room(asked)) as node:

            def make() -> _RayActor:
                made = ray.remote(ServerActor).options(**options, scheduling_strategy=_preferring(node, asked))
                handle = made.remote(self._logs, ray.util.get_node_ip_address, _machine)
                return _RayActor(handle, functools.partial(self._spread.avoid, node or ""))

            server = launch_on(make, order, self._place_s, lambda: _what_there_is(asked), self._templates)
            self._spread.add(server)
        return server

    def close(self) -> None:
        if self._templates is not None:
            self._templates.close()
        ray.shutdown()


class _RayActor:
    def __init__(self, handle: Any, gone: Callable[[], None] = lambda: None) -> None:
        self._handle = handle
        self._gone = gone

    def ask(self, method: str, bound_s: float, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._handle, method).remote(*arguments), timeout=bound_s)
        except (GetTimeoutError, ActorUnavailableError) as error:
            raise TimeoutError(one_line(error)) from None
        except Exception as error:  # whatever it is, there will be no answer
            self._gone()
            raise ActorGoneError(one_line(error)) from None

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            ray.kill(self._handle)


def _machine() -> str:
    """By what Ray knows the machine on which this is called."""
    return str(ray.get_runtime_context().get_node_id())


def _room(asked: Mapping[str, float]) -> dict[str, float]:
    """By Ray's ids of the machines, how many servers that ask for this each could have if it had nothing else.

    Without anything asked for, all have the same.
    """
    with contextlib.suppress(Exception):  # Ray raises many kinds; then it chooses
        return {
            node["NodeID"]: min((node["Resources"].get(name, 0) / count for name, count in asked.items()), default=1)
            for node in ray.nodes()
            if node["Alive"]
        }
    return {}


def _preferring(machine: str | None, asked: Mapping[str, float]) -> Any:
    """That one alone if it has nothing to run out of: Ray takes another one too readily (2.60).

    Else another one if that one is gone, or has given to others what is asked for.
    """
    if machine is None:
        return "SPREAD"
    may_run_out = bool(asked)
    return NodeAffinitySchedulingStrategy(node_id=machine, soft=may_run_out, _spill_on_unavailable=may_run_out)


def _template_on(machine: str) -> _RayActor:
    there = NodeAffinitySchedulingStrategy(node_id=machine, soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": there, "max_concurrency": _AT_ONCE}
    return _RayActor(ray.remote(MachineTemplate).options(**options).remote())


def _connect() -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    address = os.environ.get("RAY_ADDRESS")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _knock(address)
            ray.init(address, **quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except Exception as error:  # Ray raises many kinds
        where = f"reach Ray at RAY_ADDRESS={address}" if address else "start a local Ray (RAY_ADDRESS names no other)"
        raise UnavailableError(f"cannot {where}: {one_line(error)}", op="serve") from None
    finally:
        signal.signal(signal.SIGTERM, at_sigterm)  # Ray has replaced it


def _knock(address: str) -> None:
    """Fail at once if nobody listens; Ray itself takes more than a minute.

    Raises:
        OSError: Nobody listens.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdigit():  # not "auto"
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def _what_there_is(asked: Mapping[str, float]) -> str:
    """The requested and available resources, in words, for an error."""
    try:
        has, free = ray.cluster_resources(), ray.available_resources()
    except Exception as error:
        return f"{_amounts(asked)} on one machine asked for; Ray does not say what it has: {one_line(error)}"
    return (
        f"{_amounts(asked)} on one machine asked for; "
        f"the cluster has {_amounts({name: has.get(name, 0) for name in asked})}, "
        f"free are {_amounts({name: free.get(name, 0) for name in asked})}"
    )


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{count:g} {name}" for name, count in resources.items()) or "nothing"
