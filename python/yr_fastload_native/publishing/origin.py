"""What a publication was made from, so that it can be published again if its worker is gone."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable

import attrs

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.settings import Config
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["Origin"]


@attrs.frozen
class Origin:
    """Weak references to the tensors, and the digests that their bytes must have.

    Attributes:
        tensors: By name.
        config: The settings with which they were published.
        digests: One per chunk, or None until they have been computed.
    """

    who: Identity
    tensors: dict[str, weakref.ref[object]]
    config: Config
    digests: Callable[[], array[int] | None]

    @classmethod
    def of(
        cls, who: Identity, table: TensorTable, config: Config, digests: Callable[[], array[int] | None]
    ) -> Origin | None:
        """None if a tensor does not support weak references, such as bytes."""
        try:
            return cls(who, {tensor.name: weakref.ref(tensor.owner) for tensor in table.tensors}, config, digests)
        except TypeError:
            return None

    def model(self) -> dict[str, object] | None:
        """The tensors; None if one is gone."""
        found = {name: tensor() for name, tensor in self.tensors.items()}
        return None if any(tensor is None for tensor in found.values()) else found
