"""What a publication was made of, so that it can be made again where the worker that held it is gone."""

from __future__ import annotations

import weakref
from array import array
from collections.abc import Callable

import attrs

from yr_fastload_native.config import Config
from yr_fastload_native.identity import Identity
from yr_fastload_native.tensors import TensorTable

__all__ = ["Origin"]


@attrs.frozen
class Origin:
    """Tensors, which it keeps nobody from dropping, and what their bytes have to be.

    Attributes:
        tensors: By name.
        config: With which they were published.
        digests: Of each chunk, or None as long as they were not taken.
    """

    who: Identity
    tensors: dict[str, weakref.ref[object]]
    config: Config
    digests: Callable[[], array[int] | None]

    @classmethod
    def of(
        cls, who: Identity, table: TensorTable, config: Config, digests: Callable[[], array[int] | None]
    ) -> Origin | None:
        """None where one of the tensors cannot be watched, as bytes cannot."""
        try:
            return cls(who, {tensor.name: weakref.ref(tensor.owner) for tensor in table.tensors}, config, digests)
        except TypeError:
            return None

    def model(self) -> dict[str, object] | None:
        """The tensors; None if one is gone."""
        found = {name: tensor() for name, tensor in self.tensors.items()}
        return None if any(tensor is None for tensor in found.values()) else found
