"""What a publication was made from, so that it can be published again if its worker is gone."""

from __future__ import annotations

import sys
import weakref
from array import array
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.publishing.growth import Growing
from yr_fastload_native.settings import Config
from yr_fastload_native.weights.columns import Layout
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["Origin", "TensorOrigin"]


class Origin(Protocol):
    """What can be published again.

    Attributes:
        config: The settings with which it was published.
    """

    @property
    def config(self) -> Config: ...

    def who(self) -> Identity:
        """As what it is published now."""

    def model(self) -> Mapping[str, Any] | None:
        """The tensors; None if one is gone.

        Raises:
            FastLoadError: They are known to be others.
        """

    def growing(self) -> Growing | None:
        """How readers have chunks as they are stored; None if they do not."""


@attrs.frozen
class TensorOrigin:
    """Weak references to the tensors.

    One of torch's in CPU memory lives as long as that does: what was published may have been an alias, as a framework
    makes them of its parameters. Memory of a device may have been taken away from under what lies there.

    Attributes:
        names: Of the tensors.
        owners: Of each the object that it was published as.
        memories: Of each its storage and the offset there, elements; None where only its owner counts.
        layouts: Those that differ.
        layout_of: The place of each tensor's in ``layouts``.
    """

    identity: Identity
    names: list[str]
    owners: list[weakref.ref[Any]]
    memories: list[tuple[weakref.ref[Any], int] | None]
    layouts: list[Layout]
    layout_of: array[int]
    config: Config

    @classmethod
    def of(cls, who: Identity, table: TensorTable, config: Config) -> TensorOrigin | None:
        """None if a tensor does not support weak references, such as bytes."""
        torch = sys.modules.get("torch")
        living = () if torch is None or table.device != CPU else torch.Tensor
        try:
            owners = list(map(weakref.ref, table.values))
        except TypeError:
            return None
        memories = [
            (weakref.ref(value.untyped_storage()), value.storage_offset()) if isinstance(value, living) else None
            for value in table.values
        ]
        return cls(who, table.names, owners, memories, table.layouts, table.layout_of, config)

    def who(self) -> Identity:
        return self.identity

    def model(self) -> dict[str, Any] | None:
        found = {name: self._tensor(index) for index, name in enumerate(self.names)}
        return None if any(tensor is None for tensor in found.values()) else found

    def _tensor(self, index: int) -> Any | None:
        owner, memory = self.owners[index](), self.memories[index]
        storage = None if memory is None else memory[0]()
        if owner is not None or memory is None or storage is None:
            return owner
        torch, layout = sys.modules["torch"], self.layouts[self.layout_of[index]]
        empty = torch.empty(0, dtype=getattr(torch, layout.dtype))
        return empty.set_(storage, memory[1], layout.shape, layout.strides)

    def growing(self) -> None:
        return None
