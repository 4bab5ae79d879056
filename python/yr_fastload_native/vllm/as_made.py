"""What a model is before its weights are loaded: what its class and the settings of this instance made of it.

Settings such as ``max_model_len``, the runner or the type of the cache of keys and values decide about the weights only
as far as they show here: in which tensors there are, and in what was computed instead of loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import attrs
import torch

__all__ = ["AsMade"]

Digests = Callable[[Mapping[str, torch.Tensor]], Mapping[str, tuple[int, ...]]]


@attrs.frozen
class AsMade:
    """Three texts for an identity.

    Attributes:
        model_class: Its module and name: another one may read the same files into the same tensors in another way.
        layout: Digest of the names, dtypes, shapes, strides and sharing of all tensors that are exchanged.
        computed: Digest of the bytes of those that no checkpoint holds, such as tables of rotary embeddings.
    """

    model_class: str
    layout: str
    computed: str

    @classmethod
    def of(cls, model: torch.nn.Module, exchanged: Mapping[str, torch.Tensor], digests: Digests) -> AsMade:
        """Look at a model that is not loaded yet.

        Args:
            model: The model.
            exchanged: Its tensors, by all their names, that are exchanged.
            digests: Takes the digest of each tensor; may raise.
        """
        computed = digests(_first_of_each(_computed(model, exchanged)))
        kind = type(model)
        return cls(
            f"{kind.__module__}.{kind.__name__}",
            _sha256(_layout(exchanged)),
            _sha256(sorted(computed.items())),
        )


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _layout(tensors: Mapping[str, torch.Tensor]) -> list[list[object]]:
    first: dict[tuple[int, int], str] = {}
    layout: list[list[object]] = []
    for name, tensor in sorted(tensors.items()):
        place = (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()))
        shares = first.setdefault(place, name) if tensor.numel() else name
        layout.append([name, str(tensor.dtype), list(tensor.shape), list(tensor.stride()), shares])
    return layout


def _computed(model: torch.nn.Module, exchanged: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Buffers that are in no state dict, unless they lie in a parameter: those may not be initialised."""
    loaded = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return {
        name: exchanged[name]
        for name in _non_persistent(model)
        if name in exchanged and exchanged[name].untyped_storage().data_ptr() not in loaded
    }


def _non_persistent(model: torch.nn.Module) -> Iterator[str]:
    for path, module in model.named_modules(remove_duplicate=False):
        for name in module._non_persistent_buffers_set:
            yield f"{path}.{name}".lstrip(".")


def _first_of_each(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layers may share a table: once is enough."""
    found: dict[tuple[int, torch.dtype, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.numel():
            found.setdefault((tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()), name)
    return {name: tensors[name] for name in found.values()}
