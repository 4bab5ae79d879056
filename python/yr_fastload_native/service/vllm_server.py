"""The command that starts one vLLM server, and what it needs to share a machine with others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import attrs

from yr_fastload_native.config import ENVIRONMENT_PREFIX
from yr_fastload_native.service.instances import Devices, Order
from yr_fastload_native.vllm.allowed import allowing

__all__ = ["VllmServer"]


@attrs.frozen
class VllmServer:
    """Makes the orders for servers of one model.

    Attributes:
        model: Directory or name, as ``vllm serve`` takes it.
        tp: Tensor parallel size.
        arguments: More of them for ``vllm serve``.
        worker: Address of openYuanrong's worker; empty: as the environment says.
        devices: What the launcher has to give.
        devices_each: For one instance.
        grace_s: From being asked to end to being killed, seconds.
    """

    model: str
    tp: int = 1
    arguments: Sequence[str] = ()
    worker: str = ""
    devices: Devices = attrs.field(factory=Devices)
    devices_each: int = 1
    grace_s: float = 20.0

    @property
    def most(self) -> int | None:
        """How many instances there are devices for; None where they need none, or nobody knows."""
        return None if self.devices.count is None else self.devices.count // self.devices_each

    @property
    def uds(self) -> str | None:
        """The path of ``--uds`` among the arguments; that of each instance has its name after it."""
        found = None
        for each, following in itertools.pairwise([*self.arguments, ""]):
            name, _, value = each.partition("=")
            if name == "--uds":
                found = value or following
        return found

    def order(self, name: str) -> Order:
        """For the instance of a name."""
        if self.devices.kind:
            arguments = ["-m", "vllm.entrypoints.cli.main"]
        else:
            arguments = ["-m", "yr_fastload_native.vllm.beside", str(self.tp)]
        arguments += ["serve", self.model]
        if self.tp > 1:
            arguments += ["--tensor-parallel-size", str(self.tp)]
        environment = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(_KEEP_ALIVE_S)}
        # The patch, not the load format: it is there in every version, and leaves a load format that was named alone.
        environment |= {ENVIRONMENT_PREFIX + "PATCH": "1", **allowing()}
        if self.worker:
            environment[ENVIRONMENT_PREFIX + "WORKER"] = self.worker
        defaults: Mapping[str, str] = {}
        if not self.devices.kind:
            defaults = _ON_CPU
            if not any(each.startswith("--gpu-memory-utilization") for each in self.arguments):
                # Of all memory, that has to be free at the start of each.
                arguments += ["--gpu-memory-utilization", "0.1"]
        return Order(
            name=name,
            arguments=(*arguments, *self.arguments),
            environment=environment,
            grace_s=self.grace_s,
            devices=self.devices_each if self.devices.kind else 0,
            defaults=defaults,
            uds=None if self.uds is None else f"{os.path.abspath(self.uds)}.{name}",
        )


_KEEP_ALIVE_S = 60  # of idle connections, which the service closes long before (`connection`)
_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; by default half of the memory, which the next one has not
