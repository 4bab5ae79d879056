"""Devices whose memory a process can let others of the machine open."""

from __future__ import annotations

import functools
from pathlib import Path

from yr_fastload_native.devices.kind import DeviceKind

__all__ = ["IpcKind", "in_first_ipc_namespace", "neighbourhood"]

_FIRST = "ipc:[4026531839]"  # PROC_IPC_INIT_INO of Linux, of the namespace that a machine starts with


class IpcKind(DeviceKind):
    """A kind that `d2d` reaches by opening the memory of another process (``Device::share`` of the native device)."""


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
