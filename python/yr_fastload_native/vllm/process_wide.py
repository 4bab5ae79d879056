"""Tensors that outlive a model: those that the engine keeps per process and gives to every model created in it.

Examples are vLLM's cache of rotary embeddings and vllm-ascend's cosine tables. They are found by searching, since every
version has different ones.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["GivenUp", "address", "process_wide"]

_ENGINES = frozenset({"vllm", "vllm_ascend"})
_NO_ENGINES = frozenset({"torch", "torch_npu", "builtins"})
# These refer to the model under construction, not to an earlier one.
_CURRENT = ("vllm.config", "vllm.forward_context")
_DEPTH = 4
_LRU_CACHE = type(functools.lru_cache(len))


def address(tensor: torch.Tensor) -> int:
    """Address of the memory that a tensor lies in; 0 if there is none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse ones, or not initialized
        return 0


def process_wide(model: torch.nn.Module) -> frozenset[int]:
    """Addresses of the memory that is reached from globals of the engine and of the packages that a model is made of.

    From variables of modules and classes, through containers, caches of functions, and the attributes of objects: 0.1 s
    and more, so whoever asks several times while nothing runs in between keeps the answer. No code of what is looked at
    runs: mappings of engines make or import what is asked of them, and some refuse.
    """
    packages = _ENGINES | {type(each).__module__.partition(".")[0] for each in model.modules()}
    walk = _Walk(packages - _NO_ENGINES)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in walk.packages and not name.startswith(_CURRENT):
            for value in _attributes(module):
                walk.visit(value, 0)
    return frozenset(walk.found - {0})


class _Walk:
    """Hundreds of thousands of objects of a few hundred types: what to do with one is decided once a type."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages
        self.found: set[int] = set()
        self._seen: set[int] = set()
        self._how: dict[type, Callable[[Any, int], Iterable[Any]] | None] = {}

    def visit(self, value: Any, depth: int) -> None:
        kind = type(value)
        try:
            parts = self._how[kind]
        except KeyError:
            parts = self._how[kind] = self._parts_of(kind)
        if parts is None or id(value) in self._seen:
            return
        if depth > _DEPTH and not issubclass(kind, torch.Tensor):
            return
        self._seen.add(id(value))
        for each in parts(value, depth):
            self.visit(each, depth + 1)

    def _parts_of(self, kind: type) -> Callable[[Any, int], Iterable[Any]] | None:
        """What gives the parts of such an object, which may be tensors in turn; None if it can have none."""
        if issubclass(kind, torch.Tensor):
            return self._tensor
        if issubclass(kind, torch.nn.Module):
            return self._model
        if issubclass(kind, dict):
            return lambda value, _: list(dict.values(value))
        if issubclass(kind, WeakValueDictionary):
            return lambda value, _: list(WeakValueDictionary.values(value))
        if issubclass(kind, Mapping):
            return lambda value, _: _values(value)
        if issubclass(kind, (list, tuple, set, frozenset)) or kind is _LRU_CACHE:
            return lambda value, _: gc.get_referents(value)
        if issubclass(kind, type):
            return lambda value, _: list(vars(value).values()) if self._is_of_engine(value) else ()
        if self._is_of_engine(kind):
            # Objects within objects lead to whatever runs in this process, all its models too.
            return lambda value, depth: _attributes(value) if depth <= 1 else ()
        return None

    def _tensor(self, value: torch.Tensor, _: int) -> Iterable[Any]:
        self.found.add(address(value))
        return ()

    def _model(self, value: torch.nn.Module, _: int) -> Iterable[Any]:
        self.found |= {address(tensor) for tensor in (*value.parameters(), *value.buffers())}
        return ()

    def _is_of_engine(self, kind: type) -> bool:
        name = str(kind.__module__)
        return name.partition(".")[0] in self.packages and not name.startswith(_CURRENT)


def _attributes(value: object) -> list[Any]:
    """Those that it has of its own, as they are."""
    try:
        return list(dict.values(object.__getattribute__(value, "__dict__")))
    except AttributeError:
        return []


def _values(mapping: object) -> list[Any]:
    """What a mapping holds, as near to it as its values are."""
    held = _attributes(mapping) or gc.get_referents(mapping)
    return [value for each in held for value in (dict.values(each) if isinstance(each, dict) else (each,))]


class GivenUp:
    """Recognises the memory of an abandoned model, without keeping it alive.

    Args:
        tensors: Those that may hold unverified bytes.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        # Weak references to the storages, since another one may get the same address.
        self._storages: set[StorageWeakRef] = set()
        self.add(tensors)

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        self._storages |= {_weak(each) for each in tensors if address(each)}

    def found_in(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Names of the tensors that lie in the abandoned model's memory."""
        return [name for name, tensor in tensors.items() if address(tensor) and _weak(tensor) in self._storages]


def _weak(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
