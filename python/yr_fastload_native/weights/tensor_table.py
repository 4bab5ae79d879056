"""Where tensors of any framework lie in memory: names, dtypes, shapes, strides, addresses."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.devices.kind import DeviceId
from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.weights.extra_state import of_modules
from yr_fastload_native.weights.tensor_reader import TensorReader

__all__ = ["MAX_NAME_CHARS", "TensorTable"]

MAX_NAME_CHARS = 4096  # a manifest holds no longer names


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
        self.tensors = TensorReader(op, writable).read_all(list(self.index), values)
        self.device = self._device(op)
        self._check_formats(op)
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

    def _check_formats(self, op: str) -> None:
        found = self.device.kind.private_format(tensor.owner for tensor in self.tensors)
        if found is not None:
            name, how = self.tensors[found[0]].name, found[1]
            raise InvalidArgumentError(
                f"tensor {name!r} is in the private format {how}, of which only a part would move; exchange it before "
                "it is cast, or keep it from being cast (VLLM_ASCEND_ENABLE_NZ=0)",
                op=op,
                failed_keys=[name],
            )

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
