"""Ordinary memory."""

from __future__ import annotations

import ctypes
from typing import Any

from yr_fastload_native import _core
from yr_fastload_native.devices.kind import DeviceId, DeviceKind

__all__ = ["CPU", "ORDINARY_MEMORY"]


class _OrdinaryMemory(DeviceKind):
    name = "cpu"
    where = "in CPU memory"
    dlpack_types = (1, 3, 11)  # kDLCPU, kDLCUDAHost, kDLROCMHost
    aliasable = True

    def at(self, index: int | None) -> DeviceId:
        return CPU

    def label(self, index: int) -> str:
        return "the CPU"

    def is_available(self) -> bool:
        return True

    def current(self) -> int:
        return -1

    def open_device(self, index: int) -> _core.Device:
        return _core.cpu_device()

    def synchronize(self, index: int) -> None:
        """Nothing that a CPU does to a tensor is under way when the call returns."""

    def readable(self, index: int, address: int, size: int) -> Any:
        return (ctypes.c_char * size).from_address(address)


ORDINARY_MEMORY = _OrdinaryMemory()
CPU = DeviceId(ORDINARY_MEMORY, -1)
