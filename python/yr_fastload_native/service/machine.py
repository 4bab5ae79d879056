"""The accelerators of one machine, assigned to the servers on it."""

from __future__ import annotations

import glob
import os
import threading
from collections.abc import Mapping, Sequence

from yr_fastload_native import sim
from yr_fastload_native.errors import ResourceExhaustedError
from yr_fastload_native.service.launcher import Devices, Kind

__all__ = ["Lent", "MachineDevices"]

# The variable that makes devices of a kind visible, and the prefix of their device files.
_KINDS: dict[Kind, tuple[str, str]] = {
    "NPU": ("ASCEND_RT_VISIBLE_DEVICES", "/dev/davinci"),
    "GPU": ("CUDA_VISIBLE_DEVICES", "/dev/nvidia"),
}


class MachineDevices:
    """Devices, each assigned to one server at a time.

    Args:
        kind: The kind of all of them; None: nothing is assigned.
        names: As used in the variable that makes them visible.
    """

    def __init__(self, kind: Kind | None = None, names: Sequence[str] = ()) -> None:
        self.devices = Devices(kind, len(names) if kind else None)
        self._free = list(names)
        self._lock = threading.Lock()

    @classmethod
    def here(cls) -> MachineDevices:
        """The devices that this process may use: those in the kind's variable, otherwise all on the machine."""
        for kind, (variable, prefix) in _KINDS.items():
            found = [] if kind == "NPU" and sim.active() else glob.glob(f"{prefix}[0-9]*")
            if found:
                told = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
                return cls(kind, told or sorted((path[len(prefix) :] for path in found), key=int))
        return cls()

    def lend(self, count: int) -> Lent:
        """Assign some devices; none if nothing is assigned here.

        Raises:
            ResourceExhaustedError: There are not enough left.
        """
        kind = self.devices.kind
        if kind is None:
            return Lent(self, [], {})
        with self._lock:
            if count > len(self._free):
                raise ResourceExhaustedError(
                    f"{count} {kind}s for an instance: {len(self._free)} of {self.devices.count} are left", op="serve"
                )
            names, self._free = self._free[:count], self._free[count:]
        return Lent(self, names, {_KINDS[kind][0]: ",".join(names)})

    def _back(self, names: list[str]) -> None:
        with self._lock:
            self._free += names


class Lent:
    """The devices assigned to one server.

    Attributes:
        environment: Variables that make exactly these devices visible.
    """

    def __init__(self, machine: MachineDevices, names: list[str], environment: Mapping[str, str]) -> None:
        self._machine = machine
        self._names = names
        self.environment = environment

    def give_back(self) -> None:
        """Return the devices, once the server has gone. May be called repeatedly."""
        names, self._names = self._names, []
        self._machine._back(names)
