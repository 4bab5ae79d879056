"""The model as constructed, before its weights are loaded, from its class and this instance's settings.

Settings such as ``max_model_len``, the runner or the KV cache dtype affect the weights only as far as they show here:
in which tensors exist, and in what was computed instead of loaded.
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
    """Three strings that become part of an identity.

    Attributes:
        model_class: Its module and name; another class may load the same files into the same tensors differently.
        layout: Digest of the names, dtypes, shapes, strides and sharing of all tensors that are exchanged.
        computed: Digest of the bytes of tensors that are in no checkpoint, such as rotary embedding tables.
    """

    model_class: str
    layout: str
    computed: str

    @classmethod
    def of(cls, model: torch.nn.Module, exchanged: Mapping[str, torch.Tensor], digests: Digests) -> AsMade:
        """Examine a model whose weights are not loaded yet.

        Args:
            model: The model.
            exchanged: Its exchanged tensors, by all their names.
            digests: Computes the digest of each tensor; may raise.
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
    """Buffers that are in no state dict, except those inside a parameter, which may be uninitialised."""
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
    """Each tensor once, since layers may share a table."""
    found: dict[tuple[int, torch.dtype, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.numel():
            found.setdefault((tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()), name)
    return {name: tensors[name] for name in found.values()}
