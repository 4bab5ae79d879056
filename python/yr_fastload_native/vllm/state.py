"""What a model holds besides the exchanged tensors, to see whether reading the weights changed it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any

import torch

from yr_fastload_native.vllm.model_contents import attributes, parts
from yr_fastload_native.vllm.process_wide import address

__all__ = ["State"]

_DEPTH = 8
_MANY = 10_000  # number of a container's items that are compared as one text
# These belong to the engine or process, not to the model: replacing one is a change, a change inside is not.
_WHOLE = ("vllm.config", "vllm.distributed", "vllm.platforms", "torch", "logging", "threading")
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, type(None))
_TENSORS = ("_parameters", "_buffers", "_modules")
_EMPTY = "empty"


class State:
    """Values by path of everything attached to a model's modules, their classes and their parameters.

    Args:
        model: The model.
        exchanged: Tensors whose bytes are not examined.
    """

    def __init__(self, model: torch.nn.Module, exchanged: Mapping[str, torch.Tensor]) -> None:
        self._exchanged = {address(tensor): name for name, tensor in exchanged.items() if address(tensor)}
        self._found: dict[str, object] = {}
        self._seen: set[int] = set()
        self._kept: list[object] = []  # keeps these objects alive, so that no other gets the id of one
        for path, module in model.named_modules(remove_duplicate=False):
            self._module(path, module)

    def changes(self, later: State) -> list[str]:
        """Paths of values set, replaced or removed since. Added empty containers do not count."""
        before, after = self._found, later._found
        changed = {path for path, value in before.items() if path not in after or after[path] != value}
        added = {path for path, value in after.items() if path not in before and value != _EMPTY}
        return sorted(changed | added)

    def _module(self, path: str, module: torch.nn.Module) -> None:
        self._found[path or "the model"] = self._identity(module)
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        self._attributes(module, path)
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                self._visit(tensor, _join(path, name), 0)
                self._attributes(tensor, _join(path, name))
        for kind in type(module).__mro__:
            if kind.__module__.partition(".")[0] not in ("torch", "builtins"):
                self._class(kind)

    def _attributes(self, owner: object, path: str) -> None:
        for name, value in attributes(owner):
            if name not in _TENSORS:
                self._visit(value, _join(path, name), 0)

    def _class(self, kind: type) -> None:
        if id(kind) in self._seen:
            return
        self._seen.add(id(kind))
        for name, value in list(vars(kind).items()):
            if not name.startswith("__") and not callable(value) and not hasattr(value, "__get__"):
                self._visit(value, f"{kind.__qualname__}.{name}", 0)

    def _visit(self, value: Any, path: str, depth: int) -> None:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            self._found[path] = self._tensor(value)
        elif isinstance(value, _PLAIN):
            self._found[path] = f"{kind.__name__} {value!r}"
        elif isinstance(value, (Mapping, list, tuple, deque, set, frozenset)):
            self._container(value, path, depth)
        elif hasattr(value, "tobytes"):  # numpy's
            self._found[path] = (kind.__name__, hashlib.sha256(value.tobytes()).digest())
        elif isinstance(value, (torch.nn.Module, type)) or str(kind.__module__).startswith(_WHOLE):
            self._found[path] = self._identity(value)
        elif isinstance(value, MethodType):  # a new object each time
            self._found[path] = (self._identity(value.__func__), self._identity(value.__self__))
        elif callable(value) or not any(True for _ in attributes(value)):
            self._found[path] = self._identity(value)
            self._within(value, path, depth, parts(value))
        else:
            self._found[path] = f"{kind.__module__}.{kind.__qualname__}"
            self._within(value, path, depth, attributes(value))

    def _container(self, value: Any, path: str, depth: int) -> None:
        unordered = isinstance(value, (set, frozenset))
        if not value:
            self._found[path] = _EMPTY
        elif unordered or len(value) > _MANY:
            text = "\n".join(sorted(map(repr, value))) if unordered else repr(value)
            self._found[path] = (type(value).__name__, hashlib.sha256(text.encode()).digest())
            self._kept.append(value)
        else:
            self._found[path] = (type(value).__name__, len(value))
            self._within(value, path, depth, parts(value))

    def _within(self, value: object, path: str, depth: int, within: Iterable[tuple[str, Any]]) -> None:
        if depth >= _DEPTH or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        for name, each in within:
            self._visit(each, f"{path}.{name}", depth + 1)

    def _identity(self, value: object) -> object:
        self._kept.append(value)
        return type(value).__qualname__, id(value)

    def _tensor(self, tensor: torch.Tensor) -> object:
        place = address(tensor)
        if place in self._exchanged:
            return type(tensor).__qualname__, self._exchanged[place], tensor.storage_offset()
        what = (type(tensor).__qualname__, tensor.dtype, tuple(tensor.shape))
        if not place:
            return what
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        return (*what, hashlib.sha256(flat.numpy().data).digest())


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
