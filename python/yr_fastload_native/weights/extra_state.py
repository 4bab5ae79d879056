"""State that changes the meaning of a tensor's bytes and is not among them: scales, masks, quantisation state.

Two tensors with the same bytes are not the same weights if one has a table of scales in an attribute. Such state does
not move with the bytes, so tensors and modules that have some are found here and refused by name. Attributes that
loaders need (vLLM's ``weight_loader`` and ``output_dim``) do not count.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["bare_types", "extra_state", "find_extra_state", "of_modules"]

_DEPTH = 4  # of objects in attributes
# Attributes that say how to handle a tensor, and hold no weights.
_HARMLESS = (
    *(type(None), bool, int, str, bytes, type, enum.Enum, weakref.ReferenceType),
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial),
)
_HARMLESS_TYPES = frozenset(_HARMLESS)
_SAVERS = ("get_extra_state", "_save_to_state_dict", "state_dict")  # of a module; one that overrides them may save more


def find_extra_state(values: Iterable[Any]) -> Iterator[tuple[int, str]]:
    """The values that mean more than their bytes: position, and the reason as the end of a sentence.

    Most tensors have torch's own types and no attributes; those take 0.1 us each.
    """
    bare = bare_types()
    for index, value in enumerate(values):
        if type(value) not in bare or value.__dict__:
            why = extra_state(value)
            if why is not None:
                yield index, why


def of_modules(source: Any) -> Iterator[tuple[str, str]]:
    """What modules save besides parameters and buffers (``get_extra_state`` and the like): name and reason.

    Modules that return nothing (None, or something empty) do not count.
    """
    modules = getattr(source, "named_modules", None)
    torch = sys.modules.get("torch")
    if torch is None or modules is None:
        return
    for path, module in modules():
        kind: Any = type(module)
        if isinstance(module, torch.nn.Module) and _saves_more(kind):
            for name in _saved_beside(module, torch.Tensor):
                yield f"{path}.{name}".lstrip("."), f"is saved by a {kind.__name__} beside its tensors"


def bare_types() -> tuple[type, ...]:
    """Torch's own types, whose tensors mean no more than their bytes if they have no attributes.

    Not cached, because torch may be imported later.
    """
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.Tensor, torch.nn.Parameter)


def extra_state(value: Any) -> str | None:
    """Why a value means more than its bytes, as the end of a sentence; None if it does not."""
    kind: Any = type(value)
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        if _wraps_others(kind):
            return f"is a {kind.__name__}, which is made of other tensors; pass those"
        own = kind not in bare_types()
        if not _slots(kind, torch.Tensor) and _HARMLESS_TYPES.issuperset(map(type, value.__dict__.values())):
            return None  # as vLLM's parameters are, of which there may be thousands
        held = [name for name, each in _attributes(value, torch.Tensor) if _holds_weights(each, own)]
        way_out = "pass its detach()" if not own else "pass its bytes and those as tensors of their own"
    elif numpy is not None and isinstance(value, numpy.ndarray):
        if kind in (numpy.ndarray, numpy.memmap, numpy.matrix):
            return None
        held = [name for name, each in _attributes(value, numpy.ndarray) if each is not None]
        way_out = "pass plain arrays"
    else:
        return None
    if not held:
        return None
    return f"is a {kind.__name__} with {', '.join(sorted(held))} beside its bytes; {way_out}"


@functools.lru_cache(maxsize=256)
def _wraps_others(kind: Any) -> bool:
    """Whether a subclass of torch's tensors computes with tensors other than its own bytes."""
    plain = sys.modules["torch"].Tensor.__torch_dispatch__
    return kind.__torch_dispatch__ is not plain or hasattr(kind, "__tensor_flatten__")


def _attributes(value: Any, base: type = object) -> Iterator[tuple[str, Any]]:
    """The attributes of an object, in its dictionary or in slots of classes below ``base``."""
    kind: Any = type(value)
    yield from getattr(value, "__dict__", {}).items()
    for name in _slots(kind, base):
        if hasattr(value, name):
            yield name, getattr(value, name)


@functools.lru_cache(maxsize=256)
def _slots(kind: Any, base: Any) -> tuple[str, ...]:
    found: list[str] = []
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        found += [name for name, member in vars(each).items() if isinstance(member, types.MemberDescriptorType)]
    return tuple(found)


def _holds_weights(value: Any, numbers: bool, depth: int = _DEPTH, seen: set[int] | None = None) -> bool:
    """Whether an attribute's value contains a tensor or array.

    Args:
        value: The attribute's value.
        numbers: Whether floats count too, since a subclass may keep a scale in one.
        depth: Levels of containers and objects to search.
        seen: Objects that were searched already.
    """
    seen = set() if seen is None else seen
    if isinstance(value, _HARMLESS):
        return False
    if isinstance(value, (float, complex)):
        return numbers
    if hasattr(value, "__dlpack__") or isinstance(value, (bytearray, memoryview)):
        return True
    if depth == 0 or id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    else:
        parts = [each for _, each in _attributes(value)]
    return any(_holds_weights(each, numbers, depth - 1, seen) for each in parts)


@functools.lru_cache(maxsize=256)
def _saves_more(kind: type) -> bool:
    module = sys.modules["torch"].nn.Module
    return any(getattr(kind, name, None) is not getattr(module, name) for name in _SAVERS)


def _saved_beside(module: Any, tensor: type) -> list[str]:
    """Names of what a module saves besides its parameters and buffers, and that is not empty."""
    if getattr(type(module), "state_dict", None) is not sys.modules["torch"].nn.Module.state_dict:
        saved = module.state_dict()
    else:
        saved = {}
        module._save_to_state_dict(saved, "", True)
    own = {each.data_ptr() for each in (*module.parameters(), *module.buffers())}
    return [name for name, value in saved.items() if not _is_empty(value, tensor, own)]


def _is_empty(value: Any, tensor: type, own: set[int]) -> bool:
    if isinstance(value, tensor):
        return value.numel() == 0 or value.data_ptr() in own  # type: ignore[attr-defined]
    getvalue = getattr(value, "getvalue", None)  # a stream's
    value = getvalue() if callable(getvalue) else value
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
