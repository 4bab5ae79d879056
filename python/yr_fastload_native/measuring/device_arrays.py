"""Arrays in a device's own memory, without a framework: what commands and tests publish from and load into."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native import _core
from yr_fastload_native.devices.kind import WAIT_S, DeviceId
from yr_fastload_native.weights.tensor_reader import dlpack_type

__all__ = ["DeviceArray", "allocate", "upload"]

_ALIGNMENT = 512  # of each array, as torch's allocators for devices have it


class DeviceArray:
    """A dense array in a block of a device's memory, which others read by DLPack.

    Attributes:
        memory: The block.
        offset: Of its first byte there.
        shape: Of the array.
        nbytes: Of the array.
    """

    def __init__(
        self,
        device: DeviceId,
        memory: _core.DeviceMemory,
        offset: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> None:
        """Lay an array over a part of a block.

        Args:
            device: Of the block.
            memory: The block.
            offset: Of the array's first byte there.
            dtype: Of its elements.
            shape: Its extents.
            strides: Elements; dense in some order of the dimensions.
        """
        self.memory = memory
        self.offset = offset
        self.shape = shape
        self.nbytes = math.prod(shape) * dtype.itemsize
        self._device = device
        self._dtype = dtype
        self._strides = strides

    @property
    def address(self) -> int:
        """Of the first byte, for the device."""
        return self.memory.address + self.offset

    def write(self, data: NDArray[Any]) -> None:
        """Give its memory these bytes, of an array that is dense in the same order."""
        if self.nbytes:
            flat = np.lib.stride_tricks.as_strided(data, (data.size,), (data.itemsize,)).view(np.uint8)
            self.memory.write(self.offset, flat.data, deadline_s=WAIT_S)

    def bytes(self) -> NDArray[np.uint8]:
        """A copy in ordinary memory, in the order in which they lie in memory."""
        flat = np.empty(self.nbytes, np.uint8)
        self.memory.read_into(self.offset, flat.data, deadline_s=WAIT_S)
        return flat

    def numpy(self) -> NDArray[Any]:
        """A copy in ordinary memory."""
        steps = tuple(stride * self._dtype.itemsize for stride in self._strides)
        return np.lib.stride_tricks.as_strided(self.bytes().view(self._dtype), self.shape, steps)

    def __dlpack__(self, **_: Any) -> Any:
        code, bits = dlpack_type(self._dtype.name, self._dtype.itemsize)
        kind = self._device.kind.dlpack_types[0]
        return self.memory.dlpack(
            self.offset, device_type=kind, code=code, bits=bits, shape=self.shape, strides=self._strides
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.kind.dlpack_types[0], self._device.index


def allocate(device: DeviceId, like: Mapping[str, NDArray[Any]]) -> dict[str, DeviceArray]:
    """Arrays of the same layout in one block of a device's memory, with whatever bytes are there.

    Arrays that share memory do not share it there.

    Raises:
        DeviceError: The device cannot be used.
        ResourceExhaustedError: It has no room for them.
    """
    offsets, size = _placed(value.nbytes for value in like.values())
    memory = _core.DeviceMemory(device.kind.open_device(device.index), max(1, size))
    return {
        name: DeviceArray(device, memory, offset, value.dtype, value.shape, _steps(value))
        for (name, value), offset in zip(like.items(), offsets, strict=True)
    }


def upload(device: DeviceId, arrays: Mapping[str, NDArray[Any]]) -> dict[str, DeviceArray]:
    """Copies of these arrays in a device's memory; raises as `allocate`."""
    made = allocate(device, arrays)
    for name, value in arrays.items():
        made[name].write(value)
    return made


def _placed(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where blocks of these sizes begin, one after the other, and where the last one ends."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    return offsets, end


def _steps(value: NDArray[Any]) -> tuple[int, ...]:
    return tuple(stride // value.itemsize for stride in value.strides)
