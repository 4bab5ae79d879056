"""Reads where tensors of torch, numpy and whatever has DLPack or a buffer lie, and what of them cannot move."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.kind import DeviceId
from yr_fastload_native.devices.registry import of_dlpack, of_torch, reached
from yr_fastload_native.errors import DeviceError, InvalidArgumentError
from yr_fastload_native.weights.columns import Columns, Layout
from yr_fastload_native.weights.extra_state import bare_types, extra_state, find_extra_state

__all__ = ["Tensor", "TensorReader", "dense_strides", "dlpack_type"]

# struct-module format characters by kind; the item size gives the rest of the name.
_FORMAT_KINDS = {"?": "bool", "e": "float", "f": "float", "d": "float", "c": "uint", "Zf": "complex", "Zd": "complex"}
_FORMAT_KINDS |= dict.fromkeys("bhilqn", "int") | dict.fromkeys("BHILQN", "uint")

# Kinds of numpy's type strings as format characters, for __cuda_array_interface__.
_TYPE_CODES = {"b": "?", "i": "b", "u": "B", "f": "f", "c": "Zf"}

# DLDataTypeCode, https://dmlc.github.io/dlpack/latest/c_api.html
_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_DLPACK_FLOAT8 = {
    7: "float8_e3m4",
    8: "float8_e4m3",
    9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn",
    11: "float8_e4m3fnuz",
    12: "float8_e5m2",
    13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
}


def dlpack_type(dtype: str, item_bytes: int) -> tuple[int, int]:
    """What DLPack calls a type of numbers: its code and its bits.

    Args:
        dtype: Name, as of `Tensor.dtype`.
        item_bytes: Of one number.
    """
    codes = {name: code for code, name in {**_DLPACK_KINDS, **_DLPACK_FLOAT8}.items()}
    return codes[dtype if dtype in codes else dtype.rstrip("0123456789")], 8 * item_bytes


class Tensor(msgspec.Struct, frozen=True):  # made in 0.1 us, a class of attrs in 0.6
    """One tensor's layout and place.

    Attributes:
        dtype: Name as torch and numpy print it: ``bfloat16``, ``float8_e4m3fn``, ``bool``.
        strides: Elements; those of dimensions of size 1, and of empty tensors, as if C-contiguous.
        bytes: Of the storage it spans, which is dense: product(shape) * item size.
        address: 0 if it is empty.
        owner: Object that keeps the memory where it is.
        device: Where it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    bytes: int
    address: int
    owner: object
    device: DeviceId = CPU

    @property
    def layout(self) -> Layout:
        return Layout(self.dtype, self.shape, self.strides, self.bytes, self.device)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * max(shape[i], 1)
    return tuple(strides)


@functools.lru_cache(maxsize=4096)
def dense_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides in their canonical form, None if the elements do not fill one run of memory without gap or overlap.

    Cached: of thousands of tensors few have a shape of their own.
    """
    canonical = _contiguous(shape)
    if strides == canonical or 0 in shape:
        return canonical
    if all(size == 1 or stride == want for size, stride, want in zip(shape, strides, canonical, strict=True)):
        return canonical
    expected = 1
    moving = [(stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1]
    for stride, size in sorted(moving):
        if stride != expected:
            return None
        expected *= size
    return tuple(stride if size > 1 else want for size, stride, want in zip(shape, strides, canonical, strict=True))


@functools.lru_cache(maxsize=256)
def _numpy_number(dtype: Any) -> tuple[str, int] | None:
    """Name and item size of a numpy dtype, None if it is no plain native number. Cached: numpy makes names slowly."""
    # Kind V is a structure, a record or raw bytes (types of void), or a number of ml_dtypes.
    number = dtype.kind in "biufc" or (dtype.kind == "V" and not issubclass(dtype.type, sys.modules["numpy"].void))
    return (dtype.name, dtype.itemsize) if number and not dtype.hasobject and dtype.isnative else None


@functools.lru_cache(maxsize=256)
def _torch_number(dtype: Any) -> tuple[str, int]:
    """Name and item size of a torch dtype. Cached: torch makes names slowly."""
    return str(dtype).removeprefix("torch."), dtype.itemsize


class TensorReader:
    """Reads one tensor after another; refuses with the tensor's name in the message."""

    def __init__(self, op: str, writable: bool) -> None:
        self._op = op
        self._writable = writable
        torch = sys.modules.get("torch")  # whoever passes torch tensors has imported it
        self._torch_tensor: type | None = None if torch is None else torch.Tensor
        self._strided: object = None if torch is None else torch.strided
        numpy = sys.modules.get("numpy")
        # Not by __array_interface__: that of a numpy scalar is the address of a copy that is gone already.
        self._numpy_array: type | None = None if numpy is None else numpy.ndarray

    def read_all(self, names: list[str], values: list[Any]) -> Columns:
        """All of them: what is plain at once, where torch can say it so, and one after the other what is not."""
        columns, left = self._read_plain(names, values)
        for index in left:
            tensor = self.read(names[index], values[index])
            columns.put(index, tensor.layout, tensor.address, tensor.owner)
        return columns

    def _read_plain(self, names: list[str], values: list[Any]) -> tuple[Columns, Iterable[int]]:
        """Those tensors of torch's that its DLPack exchange API can describe, and the indices of the others."""
        api = getattr(self._torch_tensor, "__dlpack_c_exchange_api__", None)
        if api is None or self._torch_tensor is None:
            for index, why in find_extra_state(values):
                raise self._refuse(names[index], why)
            nothing = bytes(8 * len(values))
            return Columns(values, [], nothing, nothing, nothing), range(len(values))

        def check(index: int) -> None:
            why = extra_state(values[index])
            if why is not None:
                raise self._refuse(names[index], why)

        layouts, layout_of, addresses, sizes, left = _core.read_tensors(
            values, self._torch_tensor, api, bare_types(), check, _torch_number, of_dlpack, Layout
        )
        return Columns(values, layouts, layout_of, addresses, sizes), left

    def read(self, name: str, value: Any) -> Tensor:
        if self._torch_tensor is not None and isinstance(value, self._torch_tensor):
            return self._torch(name, value)
        if self._numpy_array is not None and isinstance(value, self._numpy_array):
            return self._numpy(name, value)
        if hasattr(value, "__dlpack__"):
            return self._dlpack(name, value)
        if hasattr(value, "__cuda_array_interface__"):
            return self._cuda_array(name, value)
        return self._buffer(name, value)

    def _refuse(self, name: str, why: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"tensor {name!r} {why}", op=self._op, failed_keys=[name])

    def _make(
        self,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        item: int,
        address: int,
        owner: object,
        device: DeviceId = CPU,
    ) -> Tensor:
        dense = dense_strides(shape, strides)
        if dense is None:
            raise self._refuse(
                name,
                f"(shape {shape}, strides {strides}) is not dense: it shares memory or has gaps; pass a copy of it",
            )
        size = math.prod(shape) * item
        if size and not address:
            raise self._refuse(name, "has no memory of its own")
        return Tensor(name, dtype, shape, dense, size, address if size else 0, owner, device)

    def _torch(self, name: str, value: Any) -> Tensor:
        if getattr(value, "materialize", None) is not None:
            raise self._refuse(name, "is not initialized yet")
        if value.layout is not self._strided or value.is_quantized or value.is_nested:
            kind = "nested parts" if value.is_nested else f"layout {value.layout}, quantized={value.is_quantized}"
            raise self._refuse(name, f"has {kind}; only strided ones move")
        device = of_torch(value.device)
        if device is None:
            raise DeviceError(
                f"tensor {name!r} is on {value.device}; only tensors {reached()} move",
                op=self._op,
                failed_keys=[name],
            )
        if value.is_conj() or value.is_neg():
            raise self._refuse(name, "is a lazy conjugate or negative; resolve it first")
        try:
            address = value.data_ptr()
        except RuntimeError as error:
            raise self._refuse(name, f"has no memory: {error}") from None
        dtype, item = _torch_number(value.dtype)
        return self._make(name, dtype, tuple(value.shape), value.stride(), item, address, value, device)

    def _numpy(self, name: str, value: Any) -> Tensor:
        number = _numpy_number(value.dtype)
        if number is None:
            raise self._refuse(name, f"has dtype {value.dtype!r}, which holds more than plain native numbers")
        dtype, item = number
        address, readonly = value.__array_interface__["data"]
        self._check_writable(name, readonly)
        strides = value.strides
        if any(stride % item for stride in strides):
            raise self._refuse(name, f"has strides {strides} that are no multiples of {item} bytes")
        return self._make(name, dtype, value.shape, tuple(s // item for s in strides), item, address, value)

    def _dlpack(self, name: str, value: Any) -> Tensor:
        try:
            view = _core.dlpack_view(value.__dlpack__())
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise self._refuse(name, f"is a {type(value).__name__} that DLPack cannot export: {error}") from None
        device = of_dlpack(*view.device)
        if device is None:
            raise DeviceError(
                f"tensor {name!r} is on DLPack device {view.device}; only tensors {reached(dlpack=True)} move",
                op=self._op,
                failed_keys=[name],
            )
        code, bits, lanes = view.dtype
        kind = _DLPACK_KINDS.get(code)
        if lanes != 1 or bits % 8 or (kind is None and code not in _DLPACK_FLOAT8):
            raise self._refuse(
                name, f"has DLPack dtype (code {code}, {bits} bits, {lanes} lanes), which is not supported"
            )
        dtype = _DLPACK_FLOAT8[code] if kind is None else "bool" if kind == "bool" else f"{kind}{bits}"
        shape = tuple(view.shape)
        strides = tuple(view.strides) or _contiguous(shape)
        return self._make(name, dtype, shape, strides, view.item_bytes, view.address, (value, view), device)

    def _cuda_array(self, name: str, value: Any) -> Tensor:
        interface = value.__cuda_array_interface__
        kind, item = _FORMAT_KINDS.get(_TYPE_CODES.get(interface["typestr"][1], "")), int(interface["typestr"][2:])
        if kind is None or interface["typestr"][0] == ">" or interface.get("mask") is not None:
            raise self._refuse(name, f"has type {interface['typestr']!r} or a mask, which is not supported")
        address, readonly = interface["data"]
        self._check_writable(name, readonly)
        shape = tuple(interface["shape"])
        strides = interface.get("strides")
        if strides is not None and any(stride % item for stride in strides):
            raise self._refuse(name, f"has strides {strides} that are no multiples of {item} bytes")
        dense = _contiguous(shape) if strides is None else tuple(stride // item for stride in strides)
        dtype = kind if kind == "bool" else f"{kind}{8 * item}"
        device = CUDA.holder(address, interface.get("stream")) if math.prod(shape) else CUDA.at(0)
        return self._make(name, dtype, shape, dense, item, address, value, device)

    def _buffer(self, name: str, value: Any) -> Tensor:
        try:
            view = _core.buffer_view(value)
        except (TypeError, ValueError, BufferError) as error:
            raise self._refuse(
                name, f"is a {type(value).__name__}, which has neither DLPack nor a usable buffer: {error}"
            ) from None
        self._check_writable(name, view.readonly)
        kind = _FORMAT_KINDS.get(view.format.lstrip("@=<"))
        if kind is None:
            raise self._refuse(name, f"has buffer format {view.format!r}, which is not supported")
        dtype = kind if kind == "bool" else f"{kind}{8 * view.item_bytes}"
        return self._make(name, dtype, tuple(view.shape), tuple(view.strides), view.item_bytes, view.address, view)

    def _check_writable(self, name: str, readonly: bool) -> None:
        if self._writable and readonly:
            raise self._refuse(name, "is read-only and cannot be loaded into")
