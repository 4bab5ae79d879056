"""The command that starts one vLLM server, and what it needs to share a machine with others."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence

import attrs

from yr_fastload_native import sim
from yr_fastload_native.config import ENVIRONMENT_PREFIX
from yr_fastload_native.service.instances import Order

__all__ = ["Devices", "VllmServer"]


@attrs.frozen
class Devices:
    """Accelerators that instances are given, by the variable that makes them visible.

    Attributes:
        variable: ``ASCEND_RT_VISIBLE_DEVICES`` or ``CUDA_VISIBLE_DEVICES``; empty on a machine without.
        names: Of the devices, as the variable has them.
    """

    variable: str = ""
    names: Sequence[str] = ()

    @classmethod
    def here(cls) -> Devices:
        """What this process may use: what the variable says, else every device of the machine."""
        npus = [] if sim.active() else glob.glob("/dev/davinci[0-9]*")
        gpus = glob.glob("/dev/nvidia[0-9]*")
        for variable, found, prefix in (
            ("ASCEND_RT_VISIBLE_DEVICES", npus, "/dev/davinci"),
            ("CUDA_VISIBLE_DEVICES", gpus, "/dev/nvidia"),
        ):
            if found:
                told = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
                return cls(variable, told or sorted((path[len(prefix) :] for path in found), key=int))
        return cls()


@attrs.frozen
class VllmServer:
    """Makes the orders for servers of one model.

    Attributes:
        model: Directory or name, as ``vllm serve`` takes it.
        tp: Tensor parallel size.
        arguments: More of them for ``vllm serve``.
        worker: Address of openYuanrong's worker; empty: as the environment says.
        devices: To be shared out.
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
        """How many instances there are devices for; None where they need none."""
        return len(self.devices.names) // self.devices_each if self.devices.names else None

    def order(self, name: str, slot: int) -> Order:
        """For the instance that has the devices of a slot."""
        command = [sys.executable, "-m"]
        if self.devices.names:
            command += ["vllm.entrypoints.cli.main"]
        else:
            command += ["yr_fastload_native.vllm.beside", str(self.tp)]
        command += ["serve", self.model]
        if self.tp > 1:
            command += ["--tensor-parallel-size", str(self.tp)]
        # The patch, not the load format: it is there in every version, and leaves a load format that was named alone.
        environment = {ENVIRONMENT_PREFIX + "PATCH": "1"}
        if self.worker:
            environment[ENVIRONMENT_PREFIX + "WORKER"] = self.worker
        if self.devices.names:
            first = slot * self.devices_each
            environment[self.devices.variable] = ",".join(self.devices.names[first : first + self.devices_each])
        else:
            environment |= {key: value for key, value in _ON_CPU.items() if key not in os.environ}
            if not any(each.startswith("--gpu-memory-utilization") for each in self.arguments):
                # Of all memory, that has to be free at the start of each.
                command += ["--gpu-memory-utilization", "0.1"]
        return Order(name, (*command, *self.arguments), environment, self.grace_s)


_ON_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB; by default half of the memory, which the next one has not
