"""The tensors of a process of ``yr-fastload bench --transport d2d|staged``, filled and compared where they lie."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native import _core
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.errors import DeviceError
from yr_fastload_native.measuring.device_arrays import upload

__all__ = ["Arrays", "DeviceTensors", "made"]

Arrays = dict[str, NDArray[np.uint8]]

_IOV_MAX = 1024
_COPY_S = 600.0
_BLANK = 0xA5


class DeviceTensors(Protocol):
    """Tensors in the memory of one device.

    Attributes:
        tensors: What a loader is given.
        places: Address and bytes of each.
    """

    tensors: Mapping[str, Any]
    places: Sequence[tuple[int, int]]

    def differing(self, wanted: Arrays) -> list[str]:
        """Names of those that do not hold these bytes."""

    def blank(self) -> None:
        """Give all of them other bytes."""

    def raw_copy_s(self, pid: int, addresses: Sequence[int], wanted: Arrays) -> float:
        """Seconds of one copy of all bytes, by what is nearest to the device's own copies.

        Args:
            pid: The process whose tensors are copied, where that is possible.
            addresses: Of them.
            wanted: What they hold.
        """


def made(device: int, arrays: Arrays) -> DeviceTensors:
    """Tensors of the device with these bytes.

    Args:
        device: Its number.
        arrays: The bytes; tensors of torch's in this very memory where the CPU reaches a simulated device's.
    """
    return _InReach(arrays) if NPU.stands_in() else _OnDevice(device, arrays)


class _InReach:
    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self.tensors: Mapping[str, Any] = _as_torch(arrays)
        self.places: Sequence[tuple[int, int]] = [(value.ctypes.data, value.nbytes) for value in arrays.values()]

    def differing(self, wanted: Arrays) -> list[str]:
        return [name for name, value in self._arrays.items() if not np.array_equal(value, wanted[name])]

    def blank(self) -> None:
        for value in self._arrays.values():
            value.fill(_BLANK)

    def raw_copy_s(self, pid: int, addresses: Sequence[int], wanted: Arrays) -> float:
        """With process_vm_readv, at most 1,024 tensors a call and 2 GiB at a time."""
        copy = ctypes.CDLL(None, use_errno=True).process_vm_readv
        copy.restype = ctypes.c_ssize_t
        sizes = [size for _, size in self.places]
        there = list(zip(addresses, sizes, strict=True))
        started = time.perf_counter()
        for first in range(0, len(sizes), _IOV_MAX):
            last = min(first + _IOV_MAX, len(sizes))
            while first < last:
                end, total = first, 0
                while end < last and total + sizes[end] < (1 << 31):
                    total += sizes[end]
                    end += 1
                local, remote = (
                    (_Iovec * (end - first))(*(_Iovec(*pair) for pair in part[first:end]))
                    for part in (self.places, there)
                )
                done = copy(pid, local, end - first, remote, end - first, 0)
                if done != total:
                    raise DeviceError(f"process_vm_readv copied {done} of {total} bytes", op="bench")
                first = end
        return time.perf_counter() - started


def _as_torch(arrays: Arrays) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in arrays.items()}


class _OnDevice:
    def __init__(self, device: int, arrays: Arrays) -> None:
        self._device = NPU.at(device)
        self._arrays = upload(self._device, arrays)
        self.tensors: Mapping[str, Any] = self._arrays
        self.places: Sequence[tuple[int, int]] = [(each.address, each.nbytes) for each in self._arrays.values()]
        self._memory = next(iter(self._arrays.values())).memory
        self._other: _core.DeviceMemory | None = None

    def differing(self, wanted: Arrays) -> list[str]:
        return [name for name, each in self._arrays.items() if not np.array_equal(each.numpy(), wanted[name])]

    def blank(self) -> None:
        for each in self._arrays.values():
            each.write(np.full(each.nbytes, _BLANK, np.uint8))

    def raw_copy_s(self, pid: int, addresses: Sequence[int], wanted: Arrays) -> float:
        """From other memory of the same device: another process's is out of reach."""
        if self._other is None:
            self._other = next(iter(upload(self._device, wanted).values())).memory
        started = time.perf_counter()
        self._memory.copy_from(self._other, deadline_s=_COPY_S)
        return time.perf_counter() - started


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
