"""Tensors that outlive a model: what the engine keeps for a whole process and hands to every model that is made in it.

vLLM's cache of rotary embeddings is one, vllm-ascend's tables of cosines another. They are found by looking, since
every version has others.
"""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["GivenUp", "address", "process_wide"]

_ENGINES = frozenset({"vllm", "vllm_ascend"})
_NO_ENGINES = frozenset({"torch", "torch_npu", "builtins"})
# What is current in them is the model that is being made, and no model of before.
_CURRENT = ("vllm.config", "vllm.forward_context")
_DEPTH = 4
_LRU_CACHE = type(functools.lru_cache(len))


def address(tensor: torch.Tensor) -> int:
    """Of the memory that a tensor lies in; 0 where there is none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse ones, or not initialized
        return 0


def process_wide(model: torch.nn.Module) -> set[int]:
    """Addresses of the memory that is reached from globals of the engine and of the packages that a model is made of.

    From variables of modules and classes, through containers, caches of functions, and the attributes of objects.
    """
    packages = _ENGINES | {type(each).__module__.partition(".")[0] for each in model.modules()}
    walk = _Walk(packages - _NO_ENGINES)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in walk.packages and not name.startswith(_CURRENT):
            for value in list(getattr(module, "__dict__", {}).values()):
                walk.visit(value, 0)
    return walk.found - {0}


class _Walk:
    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages
        self.found: set[int] = set()
        self._seen: set[int] = set()

    def visit(self, value: Any, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            self.found.add(address(value))
            return
        if depth > _DEPTH or id(value) in self._seen:
            return
        kind = type(value)
        if kind in (str, int, float, bool, bytes):
            return
        self._seen.add(id(value))
        if isinstance(value, torch.nn.Module):
            tensors = [*value.parameters(), *value.buffers()]
            self.found |= {address(tensor) for tensor in tensors}
            return
        for each in self._parts(value, kind, depth):
            self.visit(each, depth + 1)

    def _parts(self, value: Any, kind: type, depth: int) -> Iterable[Any]:
        if isinstance(value, (dict, Mapping)):
            return list(value.values())
        if isinstance(value, (list, tuple, set, frozenset)):
            return list(value)
        if kind is _LRU_CACHE:
            return gc.get_referents(value)
        if isinstance(value, type):
            return list(vars(value).values()) if self._is_of_engine(value) else ()
        # Objects within objects lead to whatever runs in this process, all its models too.
        if depth <= 1 and self._is_of_engine(kind):
            return list(getattr(value, "__dict__", {}).values())
        return ()

    def _is_of_engine(self, kind: type) -> bool:
        name = str(kind.__module__)
        return name.partition(".")[0] in self.packages and not name.startswith(_CURRENT)


class GivenUp:
    """Memory of a model that is given up, to be known again; it does not keep it.

    Args:
        tensors: Those that may hold bytes which nobody verified.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        # By weak references to the storages, since another one may get the same address.
        self._storages: set[StorageWeakRef] = set()
        self.add(tensors)

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        self._storages |= {_weak(each) for each in tensors if address(each)}

    def found_in(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Names of the tensors that lie in memory of the model given up."""
        return [name for name, tensor in tensors.items() if address(tensor) and _weak(tensor) in self._storages]


def _weak(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
