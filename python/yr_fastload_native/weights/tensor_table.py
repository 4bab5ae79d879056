"""Where tensors of any framework lie in memory: names, dtypes, shapes, strides, addresses."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, NoReturn

from yr_fastload_native import _core
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.devices.kind import DeviceId
from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.weights.columns import Layout
from yr_fastload_native.weights.extra_state import of_modules
from yr_fastload_native.weights.tensor_reader import Tensor, TensorReader

__all__ = ["MAX_NAME_CHARS", "TensorTable"]

MAX_NAME_CHARS = 4096  # a manifest holds no longer names


def _named(source: Any, op: str) -> tuple[list[Any], list[Any]]:
    """Names and tensors: parameters and buffers (persistent or not) of a module, or the items of a mapping."""
    if isinstance(source, Mapping):
        return list(source), list(source.values())
    if hasattr(source, "named_parameters") and hasattr(source, "named_buffers"):
        # With duplicates: every name of a tied tensor is part of the layout.
        pairs = [*source.named_parameters(remove_duplicate=False), *source.named_buffers(remove_duplicate=False)]
        return [name for name, _ in pairs], [value for _, value in pairs]
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


def _differ(names: list[str]) -> bool:
    return len(set(names)) == len(names)


def _refuse_names(names: list[Any], op: str) -> NoReturn:
    for name in names:
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"tensor name {name!r} is not a non-empty string", op=op)
        if len(name) > MAX_NAME_CHARS or not _is_text(name):
            raise InvalidArgumentError(
                f"tensor name {name[:40]!r} is not Unicode text of at most {MAX_NAME_CHARS} characters", op=op
            )
    twice = next(name for name, count in Counter(names).items() if count > 1)
    raise InvalidArgumentError(f"two tensors are named {twice!r}", op=op, failed_keys=[twice])


class TensorTable:
    """All tensors of one publish or load, in order, with what they share.

    It is kept as columns: what is made for each of tens of thousands of tensors is most of what a load takes beside its
    bytes.

    Attributes:
        names: In the source's order; unique.
        layouts: Those that differ.
        layout_of: The place of each tensor's in ``layouts``.
        values: Of each the object that keeps its memory where it is.
        addresses: Of each.
        sizes: Of each, bytes.
        owner: For each the index of the tensor whose memory it lies in (its own, unless tied or a view).
        offset: For each its offset there, bytes.
        moving: Bytes of each that move: tied tensors once, by their owner.
        bytes: Sum of those.
        device: Where all of them are.
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
        self.names, values = _named(source, op)
        if len(self.names) > max_tensors:
            raise ResourceExhaustedError(f"more than max_tensors={max_tensors} tensors", op=op)
        unique = type(source) is dict  # as its keys are
        if not _core.are_names(self.names, MAX_NAME_CHARS) or not (unique or _differ(self.names)):
            _refuse_names(self.names, op)
        columns = TensorReader(op, writable).read_all(self.names, values)
        self.values: list[Any] = columns.owners
        self.layouts, self.layout_of = columns.layouts, columns.layout_of
        self.device = self._device(op)
        self._check_formats(op)
        self.addresses, self.sizes = columns.addresses, columns.sizes
        self.owner, self.offset, self.moving = self._sharing(op)
        self.bytes = sum(self.moving)
        self._tensors: list[Tensor] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Each by itself, for those who do not look at columns; made when first asked for."""
        if self._tensors is None:
            self._tensors = [
                Tensor(name, *self.layouts[number][:4], address, value, self.layouts[number].device)
                for name, number, address, value in zip(
                    self.names, self.layout_of, self.addresses, self.values, strict=True
                )
            ]
        return self._tensors

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The place of each tensor, by name."""
        return {name: index for index, name in enumerate(self.names)}

    def layout(self, index: int) -> Layout:
        """Of one tensor."""
        return self.layouts[self.layout_of[index]]

    def _device(self, op: str) -> DeviceId:
        """Where all of them are."""
        if not self.names:
            return CPU
        first = self.layout(0).device
        elsewhere = {number for number, layout in enumerate(self.layouts) if layout.device != first}
        if elsewhere:
            index = next(index for index, number in enumerate(self.layout_of) if number in elsewhere)
            raise InvalidArgumentError(
                f"tensor {self.names[index]!r} is on {self.layout(index).device} and {self.names[0]!r} on {first}; "
                "publish and load the tensors of one device at a time",
                op=op,
                failed_keys=[self.names[index]],
            )
        return first

    def _check_formats(self, op: str) -> None:
        found = self.device.kind.private_format(self.values)
        if found is not None:
            name, how = self.names[found[0]], found[1]
            raise InvalidArgumentError(
                f"tensor {name!r} is in the private format {how}, of which only a part would move; exchange it before "
                "it is cast, or keep it from being cast (VLLM_ASCEND_ENABLE_NZ=0)",
                op=op,
                failed_keys=[name],
            )

    def _sharing(self, op: str) -> tuple[memoryview, memoryview, memoryview]:
        try:
            return _core.find_sharing(self.addresses, self.sizes)
        except InvalidArgumentError as error:
            names = [self.names[int(index)] for index in error.failed_keys]
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
            return list(map(attrgetter("_version"), self.values))
        except (AttributeError, RuntimeError):
            return None

    def memory(self) -> list[object]:
        """What keeps the bytes where they are, also when a framework gives a tensor other memory."""
        torch = sys.modules.get("torch")
        kind = () if torch is None else torch.Tensor
        return [value.untyped_storage() if isinstance(value, kind) else value for value in self.values]

    @property
    def replaceable(self) -> bool:
        """Whether every tensor can be given other memory: torch's can."""
        torch = sys.modules.get("torch")
        return torch is not None and all(isinstance(value, torch.Tensor) for value in self.values)

    def replace_memory(self, indices: Iterable[int]) -> None:
        """Give tensors, and all that share memory with them, a copy of their memory in its stead.

        Something may still write to the old one. Names, shapes, strides and bytes stay what they are.
        """
        storages = {self.values[index].untyped_storage().data_ptr() for index in indices}
        made: dict[int, Any] = {}
        moved: dict[int, int] = {}
        give = _Giver()
        for index, value in enumerate(self.values):
            old = value.untyped_storage()
            if old.data_ptr() not in storages or not self.sizes[index]:
                continue
            storage = made.setdefault(old.data_ptr(), None) or old.clone()
            made[old.data_ptr()] = storage
            moved[index] = give(value, storage, value.storage_offset())
        self._lie_at(moved)

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
        storage_of: dict[int, int] = {}  # of each object, however many names it has
        storages: dict[int, Any] = {}
        users: dict[int, int] = {}
        for value in {id(value): value for value in self.values if isinstance(value, torch.Tensor)}.values():
            storage = value.untyped_storage()
            place = storage_of[id(value)] = storage._cdata
            storages[place] = storage
            users[place] = users.get(place, 0) + 1
        free = set()
        for place, storage in storages.items():
            if count(place) == users[place] + 1:  # 1 for `storage` itself
                own = storage.resizable() and not storage.is_shared()  # else numpy, say, or another process has it too
                if own or is_alias(storage.data_ptr()):
                    free.add(place)
        found = {index for index, value in enumerate(self.values) if storage_of.get(id(value)) in free}
        for index, offset in enumerate(self.offset):
            if offset and index in found and offset % self.values[index].element_size():
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
        moved: dict[int, int] = {}
        give = _Giver()
        for index, value in enumerate(self.values):
            owner = self.owner[index]
            if owner not in places or not self.sizes[index]:
                continue
            if owner not in storages:
                memory, start = places[owner]
                flat = torch.frombuffer(memory, dtype=torch.uint8, count=self.sizes[owner], offset=start)
                storages[owner] = flat.untyped_storage()
            moved[index] = give(value, storages[owner], self.offset[index] // value.element_size())
        self._lie_at(moved)

    def _lie_at(self, moved: Mapping[int, int]) -> None:
        """Note where some tensors lie now, by index; whoever has the old addresses keeps them."""
        self.addresses = self.addresses[:]
        for index, address in moved.items():
            self.addresses[index] = address
        self._tensors = None

    def alias(self, index: int) -> tuple[str, int] | None:
        """Name of the tensor whose memory this one lies in, and the offset there in bytes; None if its own."""
        owner = self.owner[index]
        return None if owner == index else (self.names[owner], self.offset[index])


class _Giver:
    """Gives tensors of torch's, which are on one device, other memory."""

    def __init__(self) -> None:
        self._blanks: dict[Any, Any] = {}  # by dtype; torch takes a copy of what such a tensor refers to

    def __call__(self, value: Any, storage: Any, offset: int) -> int:
        """Have a tensor lie ``offset`` elements into a storage; returns its address there."""
        blank = self._blanks.get(value.dtype)
        if blank is None:
            blank = self._blanks[value.dtype] = value.detach().new_empty(0)
        blank.set_(storage, offset, value.shape, value.stride())
        value.data = blank
        return int(value.data_ptr())
