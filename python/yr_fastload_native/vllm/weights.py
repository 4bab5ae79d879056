"""Which tensors of a model are exchanged, and where a pull writes them."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.vllm.process_wide import GivenUp, address
from yr_fastload_native.vllm.stored_form import private_format_of

__all__ = ["Landing", "exchanged_tensors", "on_one_device"]


def exchanged_tensors(model: torch.nn.Module, shared: Set[int]) -> dict[str, torch.Tensor]:
    """Parameters and buffers by every name that they have, as they are before vLLM processes them.

    Without tables that the engine keeps for the whole process and no checkpoint has, such as those of rotary
    embeddings: each instance computes its own, and another model may be using them.

    Args:
        model: Whose they are.
        shared: `process_wide` memory.
    """
    found: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        computed = module._non_persistent_buffers_set
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if not (name in computed and address(buffer) in shared):
                found[f"{path}.{name}" if path else name] = buffer
    return found


def on_one_device(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors; but where some are on a device and some in CPU memory, copies of these on the device.

    Tensors of one device are exchanged at a time, and what a model on a device has in CPU memory is small.
    """
    devices = {tensor.device for tensor in tensors.values() if tensor.device.type != "cpu"}
    if len(devices) != 1:
        return dict(tensors)
    (device,) = devices
    beside = {name: tensor for name, tensor in tensors.items() if tensor.device.type == "cpu"}
    return {**tensors, **_with_copies(beside, {address(tensor) for tensor in beside.values()}, device)}


class Landing:
    """Where a pull writes: directly into a model's own parameters, and into everything else once it is verified.

    Args:
        model: That is loaded.
        tensors: What is pulled of it.
        shared: `process_wide` memory.

    Attributes:
        tensors: The destinations of the pull, under the same names.
    """

    def __init__(self, model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], shared: Set[int]) -> None:
        self._live = tensors
        self.tensors = on_one_device(_with_copies(tensors, _beside(model, shared)))
        self._given_up = GivenUp(self._written_at_once())

    def _written_at_once(self) -> list[torch.Tensor]:
        return [tensor for name, tensor in self._live.items() if self.tensors[name] is tensor]

    def finish(self) -> None:
        """Once everything is verified, copy what was pulled beside the model into it."""
        with torch.no_grad():
            for name, tensor in self._live.items():
                if self.tensors[name] is tensor:
                    continue
                pulled = self.tensors[name].to(tensor.device)
                if not torch.equal(pulled, tensor):  # another model in this process may be reading it
                    tensor.copy_(pulled)

    def storages(self) -> set[int]:
        """Addresses of the destination memory."""
        return {address(tensor) for tensor in self.tensors.values()}

    def given_up(self) -> GivenUp:
        """The model's tensors that may hold unverified bytes after a failed pull."""
        self._given_up.add(self._written_at_once())  # some got other memory
        return self._given_up


def _beside(model: torch.nn.Module, shared: Set[int]) -> Set[int]:
    """Addresses of memory that may be another model's too: of buffers, and of what the process keeps."""
    own = {address(parameter) for parameter in model.parameters()} - shared
    return (shared | {address(buffer) for buffer in model.buffers()}) - own - {0}


def _with_copies(
    tensors: Mapping[str, torch.Tensor], of: Set[int], device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    """Those that lie in some memory lie the same way in a copy of it; the others are what they were.

    Args:
        tensors: By name.
        of: Addresses of that memory.
        device: Where its copy is; by default beside it.
    """
    storages: dict[int, torch.UntypedStorage] = {}
    made = {}
    for name, tensor in tensors.items():
        place = address(tensor)
        made[name] = tensor
        if place in of:
            how = private_format_of(tensor)
            if how is not None:
                raise InvalidArgumentError(f"{name!r} is in the private format {how}: it cannot be copied", op="load")
            there = device or tensor.device
            if place not in storages:
                flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
                storages[place] = flat.to(there, copy=True).untyped_storage()
            made[name] = torch.empty(0, dtype=tensor.dtype, device=there)
            made[name].set_(storages[place], tensor.storage_offset(), tensor.shape, tensor.stride())
    return made
