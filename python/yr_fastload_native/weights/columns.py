"""The tensors of a table as columns: thousands of tensors have few layouts, and a number each costs little."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import NamedTuple

from yr_fastload_native.devices.kind import DeviceId

__all__ = ["Columns", "Layout"]


class Layout(NamedTuple):
    """What tensors that are alike have in common; the fields are those of a `Tensor`."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    bytes: int
    device: DeviceId


class Columns:
    """Layout, address and owner of N tensors.

    Attributes:
        layouts: Those that differ.
        layout_of: uint64[N]; the place of each tensor's in ``layouts``.
        addresses: uint64[N]; 0 if it is empty.
        sizes: uint64[N]; bytes.
        owners: Objects that keep the memory where it is.
    """

    def __init__(
        self,
        owners: Iterable[object],
        layouts: list[Layout],
        layout_of: bytes | memoryview[int],
        addresses: bytes | memoryview[int],
        sizes: bytes | memoryview[int],
    ) -> None:
        self.owners = list(owners)
        self.layouts = layouts
        self.layout_of = _uint64(layout_of)
        self.addresses = _uint64(addresses)
        self.sizes = _uint64(sizes)
        self._numbers = {layout: number for number, layout in enumerate(layouts)}

    def put(self, index: int, layout: Layout, address: int, owner: object) -> None:
        """Replace a row."""
        number = self._numbers.setdefault(layout, len(self.layouts))
        if number == len(self.layouts):
            self.layouts.append(layout)
        self.layout_of[index] = number
        self.addresses[index] = address
        self.sizes[index] = layout.bytes
        self.owners[index] = owner


def _uint64(data: bytes | memoryview[int]) -> array[int]:
    made = array("Q")
    made.frombytes(bytes(data))
    return made
