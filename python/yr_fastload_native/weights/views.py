"""Tensors of a framework that lie in memory of somebody else's, or are copies of another framework's."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["ITEM_BYTES", "VIEWS", "Views"]

_OF_NUMPY = (np.bool_, np.float16, np.float32, np.float64, np.complex64, np.complex128)
_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
_OF_ML_DTYPES = (
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e3m4,
    ml_dtypes.float8_e4m3,
    ml_dtypes.float8_e4m3b11fnuz,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e4m3fnuz,
    ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz,
    ml_dtypes.float8_e8m0fnu,
)
_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in (*_OF_NUMPY, *_INTEGERS, *_OF_ML_DTYPES)}
ITEM_BYTES = {name: dtype.itemsize for name, dtype in _DTYPES.items()}  # of every dtype that there are views of


class Views(Protocol):
    """How one framework shows memory as tensors."""

    def base(self, memory: Any) -> Any:
        """Memory with the buffer protocol, of at least a byte; it lives as long as a tensor in it."""

    def tensor(self, base: Any, offset: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        """A tensor in there.

        Args:
            base: From `base`.
            offset: Of its first byte.
            dtype: Its name, one of `ITEM_BYTES`.
            shape: Its shape.
            strides: In elements.

        Raises:
            InvalidArgumentError: The framework has no such dtype.
        """

    def copied(self, tensor: Any) -> Any:
        """A copy of a tensor of numpy's or of torch's, in memory of its own."""


class _Numpy:
    """Arrays that cannot be written to."""

    def base(self, memory: Any) -> Any:
        flat = np.frombuffer(memory, np.uint8)
        flat.flags.writeable = False
        return flat

    def tensor(self, base: Any, offset: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        kind = _DTYPES[dtype]
        return np.ndarray(shape, kind, base, offset, _byte_strides(strides, kind.itemsize))

    def copied(self, tensor: Any) -> Any:
        made = _copied(tensor)
        made.flags.writeable = False
        return made


class _Torch:
    """Tensors; what is written to them is seen by nobody else."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._kinds: dict[str, tuple[Any, int]] = {}  # an empty tensor, and bytes of an element

    def base(self, memory: Any) -> Any:
        flat = self._torch.frombuffer(memory, dtype=self._torch.uint8)
        return flat, flat.untyped_storage()

    def tensor(self, base: Any, offset: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
        empty, item = self._kinds.get(dtype) or self._kind(dtype)
        flat, storage = base
        if offset % item:  # where one tensor lies in another of a smaller dtype
            storage, offset = flat[offset:].clone().untyped_storage(), 0
        return empty.data.set_(storage, offset // item, shape, strides)  # `data` is quicker than another empty tensor

    def _kind(self, dtype: str) -> tuple[Any, int]:
        kind = getattr(self._torch, dtype, None)
        if kind is None:
            raise InvalidArgumentError(f"torch {self._torch.__version__} has no dtype {dtype}", op="checkpoint")
        return self._kinds.setdefault(dtype, (self._torch.empty(0, dtype=kind), kind.itemsize))

    def copied(self, tensor: Any) -> Any:
        if isinstance(tensor, self._torch.Tensor):
            return tensor.detach().clone()
        made = np.array(tensor, order="C")
        flat = self._torch.from_numpy(made.reshape(-1).view(np.uint8))
        return flat.view(getattr(self._torch, made.dtype.name)).reshape(made.shape)


VIEWS: dict[str, Callable[[], Views]] = {"numpy": _Numpy, "torch": _Torch}


def _copied(tensor: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        return np.array(tensor, order="C")
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.copy().view(_DTYPES[str(tensor.dtype).removeprefix("torch.")]).reshape(tuple(tensor.shape))


@functools.lru_cache(maxsize=4096)
def _byte_strides(strides: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Cached: of thousands of tensors few have strides of their own."""
    return tuple(stride * item for stride in strides)
