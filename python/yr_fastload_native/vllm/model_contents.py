"""What a model consists of: tensors, numbers beside them, and objects that may hide weights."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import attrs
import torch

from yr_fastload_native.weights.extra_state import find_extra_state

__all__ = ["SCALARS", "Live", "attributes", "parts", "storages"]

_DEPTH = 6
# Objects that keep weights without a tensor: handles of packed matrices.
_PACKERS = ("CPUDNNLGEMMHandler", "ScriptObject", "PyCapsule")
_HANDLE_WORDS = ("handler", "handle")
# Referenced by modules, but without weights.
_ELSEWHERE = ("vllm.config", "vllm.distributed", "vllm.platforms", "transformers", "torch.distributed", "logging")
_SCALARS = (bool, int, float, str)
SCALARS = "python values"  # name of the tensor that holds the scalars' digest


def storages(model: torch.nn.Module) -> set[int]:
    """Addresses of all memory that is reachable from a model."""
    live = Live.of(model)
    return {tensor.untyped_storage().data_ptr() for tensor in live.tensors.values()}


@attrs.frozen
class Live:
    """Everything reachable from the modules of a model.

    Attributes:
        tensors: By path: parameters, buffers, and tensors in attributes, containers, objects and closures.
        scalars: Numbers and strings, by path; processing derives some of them from weights.
        opaque: Paths of objects that may hold weights but are not tensors, each with its type.
    """

    tensors: dict[str, torch.Tensor]
    scalars: dict[str, Any]
    opaque: list[str]

    @classmethod
    def of(cls, model: torch.nn.Module) -> Live:
        live = cls({}, {}, [])
        seen: set[int] = set()
        for path, module in model.named_modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                live._take(tensor, f"{path}.{name}".lstrip("."))
            for name, value in vars(module).items():
                if name not in ("_parameters", "_buffers", "_modules"):
                    live._visit(value, f"{path}.{name}".lstrip("."), 0, seen)
        return live

    def digest(self) -> torch.Tensor:
        """Digest of the scalars: uint8[32]."""
        text = json.dumps(self.scalars, sort_keys=True, default=str)
        return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)

    def bytes(self) -> int:
        """Bytes of all reachable memory."""
        return sum(
            {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in self.tensors.values()}.values()
        )

    def _visit(self, value: Any, path: str, depth: int, seen: set[int]) -> None:
        if isinstance(value, torch.Tensor):
            if value.numel() and value.device.type != "meta":
                self._take(value, path)
            return
        if isinstance(value, _SCALARS):
            self._scalar(value, path)
            return
        kind = type(value)
        if kind.__name__ in _PACKERS:
            self.opaque.append(f"{path} ({kind.__name__})")
            return
        if id(value) in seen or depth >= _DEPTH or isinstance(value, (torch.nn.Module, type, ModuleType)):
            return
        seen.add(id(value))
        for name, each in parts(value):
            self._visit(each, f"{path}.{name}", depth + 1, seen)

    def _take(self, tensor: torch.Tensor, path: str) -> None:
        self.opaque.extend(f"{path}, which {why}," for _, why in find_extra_state([tensor]))
        self.tensors.setdefault(path, tensor)

    def _scalar(self, value: Any, path: str) -> None:
        word = path.rsplit(".", 1)[-1].lower()
        if type(value) is int and value and any(word.endswith(each) for each in _HANDLE_WORDS):
            self.opaque.append(f"{path} (a handle)")
        else:
            self.scalars[path] = value


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object that may contain weights."""
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
    elif isinstance(value, (list, tuple, deque)):
        yield from ((str(index), each) for index, each in enumerate(value))
    elif hasattr(value, "__closure__") or hasattr(value, "__func__"):
        function = getattr(value, "__func__", value)
        names = function.__code__.co_freevars if hasattr(function, "__code__") else ()
        for name, cell in zip(names, function.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not set yet
                continue
        for index, each in enumerate(getattr(function, "__defaults__", None) or ()):
            yield f"default{index}", each
    elif hasattr(value, "func") and hasattr(value, "args") and hasattr(value, "keywords"):  # functools.partial
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif not type(value).__module__.startswith(_ELSEWHERE):
        yield from attributes(value)


def attributes(value: object) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, in its ``__dict__`` and its ``__slots__``."""
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
