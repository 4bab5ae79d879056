"""The command that starts a vLLM server, and the settings it needs to share a machine with others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence

import attrs

from yr_fastload_native.service.launcher import Devices, Model, Order
from yr_fastload_native.settings import ENVIRONMENT_PREFIX
from yr_fastload_native.vllm.allowed import allowing
from yr_fastload_native.vllm.compat import FIRST_IMPORTS

__all__ = ["VllmServer"]


@attrs.frozen
class VllmServer:
    """Creates the orders for servers of one model.

    Attributes:
        model: Directory or name, as for ``vllm serve``.
        tp: Tensor parallel size.
        arguments: Further arguments of ``vllm serve``.
        worker: Address of openYuanrong's worker; with nothing before the colon, that of each instance's own machine;
            empty: from the environment.
        devices: The devices that the launcher can assign.
        devices_each: Number of devices per instance.
        grace_s: Time between being asked to end and being killed, seconds.
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
        """Number of instances that the devices suffice for; None if they need none or it is unknown."""
        return None if self.devices.count is None else self.devices.count // self.devices_each

    @property
    def uds(self) -> str | None:
        """The path of ``--uds`` in the arguments; each instance appends its name to it."""
        found = None
        for each, following in itertools.pairwise([*self.arguments, ""]):
            name, _, value = each.partition("=")
            if name == "--uds":
                found = value or following
        return found

    def _has(self, option: str) -> bool:
        """Whether the arguments have an option, however it is spelt."""
        return any(each.partition("=")[0].replace("_", "-") == option for each in self.arguments)

    def order(self, name: str) -> Order:
        """The order for an instance with this name."""
        if self.devices.kind:
            arguments = ["-m", "vllm.entrypoints.cli.main"]
        else:
            arguments = ["-m", "yr_fastload_native.vllm.shared_cores", str(self.tp)]
        arguments += ["serve", self.model]
        if self.tp > 1:
            arguments += ["--tensor-parallel-size", str(self.tp)]
        environment = {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(_KEEP_ALIVE_S)}
        # The patch, not the load format: every version has it, and it respects a load format that was chosen.
        environment |= {ENVIRONMENT_PREFIX + "PATCH": "1", **allowing()}
        host, _, port = self.worker.rpartition(":")
        if host:
            environment[ENVIRONMENT_PREFIX + "WORKER"] = self.worker
        defaults: Mapping[str, str] = {}
        if not self.devices.kind:
            defaults = _ON_CPU
            if not any(each.startswith("--gpu-memory-utilization") for each in self.arguments):
                # This share of all memory must be free when an instance starts.
                arguments += ["--gpu-memory-utilization", "0.1"]
        return Order(
            name=name,
            arguments=(*arguments, *self.arguments),
            environment=environment,
            grace_s=self.grace_s,
            devices=self.devices_each if self.devices.kind else 0,
            defaults=defaults,
            uds=None if self.uds is None else f"{os.path.abspath(self.uds)}.{name}",
            imports=FIRST_IMPORTS,
            worker_port=0 if host else int(port or 0),
            model=Model(self.model, code=self._has("--trust-remote-code"), is_named=self._has("--served-model-name")),
        )


_KEEP_ALIVE_S = 60  # for idle connections, which the service closes long before (`connection`)
_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; the default, half of the memory, leaves too little for others
