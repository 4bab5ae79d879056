"""Memory of a simulated device that the CPU does not reach, written to at once or as a framework does: later."""

from __future__ import annotations

import ctypes
import functools
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray

from yr_fastload_native import _core
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.measuring.device_arrays import DeviceArray

__all__ = ["DeviceStorage", "settle"]

_TO_DEVICE = 1  # aclrtMemcpyKind
_under_way: list[tuple[_core.DeviceMemory, NDArray[np.uint8]]] = []


class DeviceStorage:
    """A block of the device of this thread. Faults of the device do not meet what is read here, or written at once.

    Args:
        raw: Its first bytes.
        lagging: Whether a framework's stream writes them, for which a device has to be waited.
    """

    def __init__(self, raw: NDArray[np.uint8], *, lagging: bool = False) -> None:
        self._device = NPU.at(max(0, NPU.current()))
        self._bytes = raw.size
        self._memory = _core.DeviceMemory(_open(self._device.index), max(1, raw.size))
        if not lagging:
            self.write(raw)
        elif raw.size:
            _under_way.append((self._memory, raw))
            size, handle = ctypes.c_size_t(raw.size), _stream()
            _check(_acl().aclrtMemcpyAsync(self._address, size, _address_of(raw), size, _TO_DEVICE, handle))

    def array(self, like: NDArray[np.generic]) -> DeviceArray:
        """An array of the same layout that begins where this block does."""
        steps = tuple(stride // like.itemsize for stride in like.strides)
        return DeviceArray(self._device, self._memory, 0, like.dtype, like.shape, steps)

    def read(self) -> NDArray[np.uint8]:
        held = np.empty(self._bytes, np.uint8)
        _copy(_address_of(held), self._address, self._bytes)
        return held

    def write(self, raw: NDArray[np.uint8]) -> None:
        _copy(self._address, _address_of(raw), self._bytes)

    @property
    def _address(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._memory.address)


def settle() -> None:
    """Wait for what the framework has asked for; what it writes to may then be freed."""
    if _under_way:
        _check(_acl().aclrtSynchronizeStream(_stream()))
        _under_way.clear()


@functools.cache
def _open(index: int) -> _core.Device:
    """Once: each has threads of its own."""
    return NPU.open_device(index)


@functools.cache
def _acl() -> ctypes.CDLL:
    return ctypes.CDLL("libascendcl.so")


@functools.cache
def _stream() -> ctypes.c_void_p:
    """Of a framework; it is found where torch_npu's would be."""
    handle = ctypes.c_void_p()
    _check(_acl().aclrtCreateStreamWithConfig(ctypes.byref(handle), 0, 0))
    current = SimpleNamespace(npu_stream=handle.value)
    vars(torch)["npu"] = SimpleNamespace(is_initialized=lambda: True, current_stream=lambda index: current)
    return handle


def _copy(to: ctypes.c_void_p, source: ctypes.c_void_p, size: int) -> None:
    if size:
        _check(_acl().yrfl_sim_copy(to, source, ctypes.c_size_t(size)))


def _address_of(raw: NDArray[np.uint8]) -> ctypes.c_void_p:
    return ctypes.c_void_p(raw.ctypes.data)


def _check(result: int) -> None:
    if result != 0:
        raise RuntimeError(f"the simulated device refused: {result}")
