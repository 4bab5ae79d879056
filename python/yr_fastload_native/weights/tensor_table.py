"""Where tensors of any framework lie in memory: names, dtypes, shapes, strides, addresses."""

from __future__ import annotations

import functools
import math
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.kind import DeviceId
from yr_fastload_native.devices.registry import of_dlpack, of_torch, reached
from yr_fastload_native.errors import DeviceError, InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.weights.extra_state import find_extra_state, of_modules

__all__ = ["Tensor", "TensorTable"]

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

MAX_NAME_CHARS = 4096  # a manifest holds no longer names


class Tensor(msgspec.Struct, frozen=True):  # made in 0.1 us, a class of attrs in 0.6; there are tens of thousands
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


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * max(shape[i], 1)
    return tuple(strides)


@functools.lru_cache(maxsize=4096)
def _dense_strides(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...] | None:
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


class _Reader:
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

    def read_all(self, names: list[str], values: list[Any]) -> list[Tensor]:
        """All of them: what is plain at once, where torch can say it so, and one after the other what is not."""
        for index, why in find_extra_state(values):
            raise self._refuse(names[index], why)
        api = getattr(self._torch_tensor, "__dlpack_c_exchange_api__", None)
        if api is None or self._torch_tensor is None:
            return list(map(self.read, names, values))
        found = _core.read_tensors(names, values, self._torch_tensor, api, _torch_number, of_dlpack, Tensor)
        return [self.read(names[index], values[index]) if made is None else made for index, made in enumerate(found)]

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
        dense = _dense_strides(shape, strides)
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


def _named(source: Any, op: str) -> Iterator[tuple[str, Any]]:
    """Name and tensor of each parameter and buffer (persistent or not) of a module, or of each item of a mapping."""
    if isinstance(source, Mapping):
        return iter(source.items())
    if hasattr(source, "named_parameters") and hasattr(source, "named_buffers"):
        # With duplicates: every name of a tied tensor is part of the layout.
        parameters = source.named_parameters(remove_duplicate=False)
        buffers = source.named_buffers(remove_duplicate=False)
        return (pair for group in (parameters, buffers) for pair in group)
    raise InvalidArgumentError(
        f"expected a torch.nn.Module or a mapping of names to tensors, got {type(source).__name__}", op=op
    )


def _is_text(name: str) -> bool:
    """False for lone surrogates, which no manifest can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class TensorTable:
    """All tensors of one publish or load, in order, with what they share.

    Attributes:
        tensors: In the source's order; names are unique.
        owner: For each the index of the tensor whose memory it lies in (its own, unless tied or a view).
        offset: For each its offset there, bytes.
        device: Where all of them are.
        addresses: Of each.
        moving: Bytes of each that move: tied tensors once, by their owner.
    """

    def __init__(self, source: Any, *, op: str, writable: bool, max_tensors: int) -> None:
        """Read the layout of a module or mapping.

        Raises:
            InvalidArgumentError: A tensor cannot be moved; the message names it and says why.
            DeviceError: A tensor is where the transport cannot reach.
            ResourceExhaustedError: More than ``max_tensors``.
        """
        for name, why in of_modules(source):
            raise InvalidArgumentError(
                f"{name!r} {why} and would not move with them; pass a mapping of the tensors and see to it yourself",
                op=op,
                failed_keys=[name],
            )
        self.index: dict[str, int] = {}
        values: list[Any] = []
        for name, value in _named(source, op):
            if not isinstance(name, str) or not name:
                raise InvalidArgumentError(f"tensor name {name!r} is not a non-empty string", op=op)
            if len(name) > MAX_NAME_CHARS or not (name.isascii() or _is_text(name)):
                raise InvalidArgumentError(
                    f"tensor name {name[:40]!r} is not Unicode text of at most {MAX_NAME_CHARS} characters", op=op
                )
            if name in self.index:
                raise InvalidArgumentError(f"two tensors are named {name!r}", op=op, failed_keys=[name])
            if len(values) == max_tensors:
                raise ResourceExhaustedError(f"more than max_tensors={max_tensors} tensors", op=op)
            self.index[name] = len(values)
            values.append(value)
        self.tensors = _Reader(op, writable).read_all(list(self.index), values)
        self.device = self._device(op)
        self.addresses = array("Q", [tensor.address for tensor in self.tensors])
        self.owner, self.offset = self._sharing(op)
        owners = enumerate(zip(self.tensors, self.owner, strict=True))
        self.moving = array("Q", [tensor.bytes if owner == index else 0 for index, (tensor, owner) in owners])

    def _device(self, op: str) -> DeviceId:
        """Where all of them are."""
        for tensor in self.tensors:
            if tensor.device != self.tensors[0].device:
                raise InvalidArgumentError(
                    f"tensor {tensor.name!r} is on {tensor.device} and {self.tensors[0].name!r} on "
                    f"{self.tensors[0].device}; publish and load the tensors of one device at a time",
                    op=op,
                    failed_keys=[tensor.name],
                )
        return self.tensors[0].device if self.tensors else CPU

    def _sharing(self, op: str) -> tuple[memoryview, memoryview]:
        try:
            return _core.find_sharing(self.addresses, array("Q", [tensor.bytes for tensor in self.tensors]))
        except InvalidArgumentError as error:
            names = [self.tensors[int(index)].name for index in error.failed_keys]
            raise InvalidArgumentError(
                f"tensors {' and '.join(map(repr, names))} overlap in memory and neither contains the other; "
                "pass a copy of one",
                op=op,
                failed_keys=names,
            ) from None

    def versions(self) -> list[int] | None:
        """A number for each tensor that grows when it is written to; None if one of them has none.

        Those of torch have one, except tensors made in inference mode.
        """
        try:
            return [int(tensor.owner._version) for tensor in self.tensors]  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError):
            return None

    def memory(self) -> list[object]:
        """What keeps the bytes where they are, also when a framework gives a tensor other memory."""
        return [getattr(tensor.owner, "untyped_storage", lambda owner=tensor.owner: owner)() for tensor in self.tensors]

    @property
    def replaceable(self) -> bool:
        """Whether every tensor can be given other memory: torch's can."""
        torch = sys.modules.get("torch")
        return torch is not None and all(isinstance(tensor.owner, torch.Tensor) for tensor in self.tensors)

    def replace_memory(self, indices: Iterable[int]) -> None:
        """Give tensors, and all that share memory with them, a copy of their memory in its stead.

        Something may still write to the old one. Names, shapes, strides and bytes stay what they are.
        """
        storages = {self.tensors[index].owner.untyped_storage().data_ptr() for index in indices}  # type: ignore[attr-defined]
        made: dict[int, Any] = {}
        for index, tensor in enumerate(self.tensors):
            value: Any = tensor.owner
            old = value.untyped_storage()
            if old.data_ptr() not in storages or not tensor.bytes:
                continue
            storage = made.setdefault(old.data_ptr(), None) or old.clone()
            made[old.data_ptr()] = storage
            self._give(index, storage, value.storage_offset())
        self.addresses = array("Q", [tensor.address for tensor in self.tensors])

    def _give(self, index: int, storage: Any, offset: int) -> None:
        """Have a tensor of torch's lie ``offset`` elements into other memory."""
        tensor = self.tensors[index]
        value: Any = tensor.owner
        fresh = value.detach().new_empty(0)
        fresh.set_(storage, offset, value.shape, value.stride())
        value.data = fresh
        self.tensors[index] = msgspec.structs.replace(tensor, address=value.data_ptr())

    def movable(self, is_alias: Callable[[int], bool]) -> frozenset[int]:
        """Tensors that can be given other memory without anybody noticing: torch's, if torch made their memory and
        nothing but tensors of this table lies in it. A view that is none of them would go on showing the old memory.

        Args:
            is_alias: Whether there is memory at an address that `alias_memory` has put there.
        """
        torch = sys.modules.get("torch")
        count = getattr(getattr(torch, "_C", None), "_storage_Use_Count", None)
        if torch is None or count is None:
            return frozenset()
        users: dict[int, dict[int, list[int]]] = {}  # tensors by object, by storage
        storages: dict[int, Any] = {}
        for index, tensor in enumerate(self.tensors):
            if isinstance(tensor.owner, torch.Tensor):
                storage = tensor.owner.untyped_storage()
                storages[storage._cdata] = storage
                users.setdefault(storage._cdata, {}).setdefault(id(tensor.owner), []).append(index)
        found: set[int] = set()
        for cdata, by_object in users.items():
            storage = storages[cdata]
            own = storage.resizable() and not storage.is_shared()  # else numpy, say, or another process has it too
            if count(cdata) == len(by_object) + 1 and (own or is_alias(storage.data_ptr())):  # 1 for `storage` itself
                found.update(index for indices in by_object.values() for index in indices)
        for index, tensor in enumerate(self.tensors):
            if index in found and self.offset[index] % tensor.owner.element_size():  # type: ignore[attr-defined]
                found.discard(self.owner[index])
        return frozenset(found)

    def alias_memory(self, places: Mapping[int, tuple[Any, int]]) -> None:
        """Have tensors, and all that lie in them, use memory that holds their bytes already.

        Args:
            places: By tensor, of those with memory of their own: an object with the buffer protocol, which lives from
                then on as long as they do, and the offset of the tensor's first byte in it.
        """
        torch = sys.modules["torch"]
        storages: dict[int, Any] = {}
        for index, tensor in enumerate(self.tensors):
            owner = self.owner[index]
            if owner not in places or not tensor.bytes:
                continue
            if owner not in storages:
                memory, start = places[owner]
                flat = torch.frombuffer(memory, dtype=torch.uint8, count=self.tensors[owner].bytes, offset=start)
                storages[owner] = flat.untyped_storage()
            self._give(index, storages[owner], self.offset[index] // tensor.owner.element_size())  # type: ignore[attr-defined]
        self.addresses = array("Q", [tensor.address for tensor in self.tensors])

    def alias(self, index: int) -> tuple[str, int] | None:
        """Name of the tensor whose memory this one lies in, and the offset there in bytes; None if its own."""
        owner = self.owner[index]
        return None if owner == index else (self.tensors[owner].name, self.offset[index])

    @property
    def bytes(self) -> int:
        """Bytes that move: tied tensors once."""
        return sum(self.moving)
