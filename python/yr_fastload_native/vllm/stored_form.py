"""Weights in a device's private format, such as an NPU's NZ: exchanged as the bytes that they are stored as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from yr_fastload_native.devices.registry import of_torch

__all__ = ["StoredForm", "in_stored_form", "private_format_of"]


class StoredForm:
    """All bytes of a tensor's memory, padding included, for whoever reads it by DLPack.

    It cannot be given other memory, as a tensor of torch's can, which would leave the format behind.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())

    def __dlpack__(self, **_: Any) -> Any:
        return self._flat.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._flat.__dlpack_device__()


def private_format_of(tensor: torch.Tensor) -> str | None:
    """The format of a tensor whose bytes do not lie as its shape and strides say; None if they do."""
    device = of_torch(tensor.device)
    found = None if device is None else device.kind.private_format([tensor])
    return None if found is None else found[1]


def in_stored_form(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The same tensors; but those in private formats as their bytes, under names that say what these are.

    So they are taken for nothing but tensors of the same format, type, shape, strides and place in their memory.
    """
    made: dict[str, Any] = {}
    for name, tensor in tensors.items():
        how = private_format_of(tensor)
        if how is None:
            made[name] = tensor
        else:
            layout = f"{how} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {tensor.storage_offset()}"
            made[f"{name} [{layout}]"] = StoredForm(tensor)
    return made
