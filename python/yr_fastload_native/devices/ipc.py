"""Devices whose memory a process can let others of the machine open."""

from __future__ import annotations

import functools
from pathlib import Path

from yr_fastload_native import _core
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind

__all__ = ["IpcKind", "in_first_ipc_namespace", "neighbourhood"]

_FIRST = "ipc:[4026531839]"  # PROC_IPC_INIT_INO of Linux, of the namespace that a machine starts with


class IpcKind(DeviceKind):
    """A kind that `d2d` reaches by opening the memory of another process (``Device::share`` of the native device)."""

    def open(
        self, index: int, connection: _core.Connection | None, *, staging_bytes: int, pin: str = "slots"
    ) -> DeviceContext:
        device = self.open_device(index)
        locked = _core.LockedChunks(device) if pin == "pool" else None
        return DeviceContext(self, device, _core.PinnedPool(device, staging_bytes), locked=locked)


@functools.cache
def neighbourhood() -> str:
    """The same for all processes that can open each other's memory: machine, and namespace of IPC objects."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{machine}/{_namespace()}"


def in_first_ipc_namespace() -> bool:
    """Whether this process is in none of a container's."""
    return _namespace() == _FIRST


def _namespace() -> str:
    return str(Path("/proc/self/ns/ipc").readlink())
