"""What a publication was made from, so that it can be published again if its worker is gone."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.publishing.growth import Growing
from yr_fastload_native.settings import Config
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
class _Tensor:
    """A weak reference to a tensor.

    One of torch's in CPU memory lives as long as that does: what was published may have been an alias, as a framework
    makes them of its parameters. Memory of a device may have been taken away from under what lies there.
    """

    owner: weakref.ref[Any]
    memory: weakref.ref[Any] | None
    layout: tuple[Any, ...]  # dtype, offset in elements, shape, strides

    @classmethod
    def of(cls, owner: Any) -> _Tensor:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(owner, torch.Tensor) or owner.device.type != "cpu":
            return cls(weakref.ref(owner), None, ())
        layout = owner.dtype, owner.storage_offset(), tuple(owner.shape), owner.stride()
        return cls(weakref.ref(owner), weakref.ref(owner.untyped_storage()), layout)

    def get(self) -> Any | None:
        owner = self.owner()
        memory = None if self.memory is None else self.memory()
        if owner is not None or memory is None:
            return owner
        dtype, *where = self.layout
        return sys.modules["torch"].empty(0, dtype=dtype).set_(memory, *where)


@attrs.frozen
class TensorOrigin:
    """Weak references to the tensors, by name."""

    identity: Identity
    tensors: dict[str, _Tensor]
    config: Config

    @classmethod
    def of(cls, who: Identity, table: TensorTable, config: Config) -> TensorOrigin | None:
        """None if a tensor does not support weak references, such as bytes."""
        try:
            return cls(who, {tensor.name: _Tensor.of(tensor.owner) for tensor in table.tensors}, config)
        except TypeError:
            return None

    def who(self) -> Identity:
        return self.identity

    def model(self) -> dict[str, Any] | None:
        found = {name: tensor.get() for name, tensor in self.tensors.items()}
        return None if any(tensor is None for tensor in found.values()) else found

    def growing(self) -> None:
        return None
