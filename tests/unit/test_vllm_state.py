"""What reading the weights may change beside the tensors that are exchanged."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch

from yr_fastload_native.vllm.process_wide import process_wide
from yr_fastload_native.vllm.state import State
from yr_fastload_native.vllm.weights import exchanged_tensors


class Slotted:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 1


class Method:
    """As a layer's method of quantisation."""

    def __init__(self) -> None:
        self.scheme = SimpleNamespace(bits=8, scales=[1.0, 2.0])

    def load(self) -> None: ...


class OtherMethod(Method):
    pass


def closure(value: int) -> Callable[[], int]:
    return lambda: value


class Layer(torch.nn.Linear):
    factor: ClassVar[float] = 1.0

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.quant_method = Method()
        self.weight.loader = self.quant_method.load  # type: ignore[attr-defined]
        self.slotted = Slotted()
        self.pending: dict[str, int] = {}
        self.names = {"a", "b"}
        self.window = deque([1, 2])
        self.mask = torch.zeros(3)
        self.view = self.weight.data[0]
        self.numbers = np.zeros(3)
        self.act: Callable[..., Any] = torch.relu
        self.call = closure(1)
        self.gain = 0.0
        self.nothing: float | None = None
        self.config = SimpleNamespace(tied=False)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Layer()
        self.head = torch.nn.Linear(2, 2)


def changes(model: Model, change: Callable[[Model], object]) -> list[str]:
    before = State(model, exchanged_tensors(model, process_wide(model)))
    change(model)
    return before.changes(State(model, exchanged_tensors(model, process_wide(model))))


def setter(path: str, value: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        *way, last = path.split(".")
        owner: Any = model
        for name in way:
            owner = getattr(owner, name)
        setattr(owner, last, value)

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layer.gain", 1.0),
        ("layer.gain", float("nan")),
        ("layer.gain", 0),
        ("layer.nothing", 1.0),
        ("layer.slotted.value", 2),
        ("layer.quant_method.scheme.bits", 4),
        ("layer.config.tied", True),
        ("layer.act", torch.sigmoid),
        ("layer.window", deque([1])),
        ("layer.mask", torch.ones(3)),
        ("layer.mask", torch.zeros(3, dtype=torch.int32)),
        ("layer.weight.quant_state", "x"),
        ("layer.weight.loader", None),
        ("layer.pending", {"a": 1}),
        ("layer.added", 1),
        ("layer.view", None),
        ("head", torch.nn.Linear(2, 2)),
    ],
)
def test_what_is_set_is_named(path: str, value: Any) -> None:
    assert path in changes(Model(), setter(path, value))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("layer.mask", lambda model: model.layer.mask.add_(1)),
        ("layer.numbers", lambda model: model.layer.numbers.fill(1)),
        ("layer.names", lambda model: model.layer.names.add("c")),
        ("layer.quant_method.scheme.scales.1", lambda model: model.layer.quant_method.scheme.scales.__setitem__(1, 3)),
        ("layer.call", lambda model: setattr(model.layer, "call", closure(2))),
        ("layer.gain", lambda model: delattr(model.layer, "gain")),
        ("layer.quant_method", lambda model: setattr(model.layer.quant_method, "__class__", OtherMethod)),
        ("layer.weight", lambda model: setattr(model.layer, "weight", OtherParameter(model.layer.weight.data))),
    ],
    ids=["tensor", "array", "set", "list", "closure", "removed", "class of an object", "class of a parameter"],
)
def test_what_is_written_to_is_named(path: str, change: Callable[[Model], object]) -> None:
    assert path in changes(Model(), change)


class OtherParameter(torch.nn.Parameter):
    """Another kind of it."""


def test_attributes_of_classes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert changes(Model(), lambda _: monkeypatch.setattr(Layer, "factor", 2.0)) == ["Layer.factor"]


@pytest.mark.parametrize("empty", [{}, [], set(), deque(), ()])
def test_an_empty_container_that_is_added_is_nothing(empty: object) -> None:
    """As of models that collect there what comes in two parts."""
    assert changes(Model(), setter("layer.collected", empty)) == []


def test_exchanged_tensors_may_change() -> None:
    def read(model: Model) -> None:
        with torch.no_grad():
            model.layer.weight.fill_(3)
            model.head.weight.data = torch.ones(2, 2)

    assert changes(Model(), read) == []


def test_nothing_changes_by_looking() -> None:
    assert changes(Model(), lambda _: None) == []


# -- what a process keeps -----------------------------------------------------------------------------------------


class Unfinished(Mapping[str, Any]):
    """Whose values are made, or refused, when they are asked for, as vLLM's and pydantic's are."""

    def __init__(self, **made: Any) -> None:
        self.made = made

    def __getitem__(self, name: str) -> Any:
        raise AssertionError(name)

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("asked")

    def __len__(self) -> int:
        raise AssertionError("asked")


def cached(value: Any) -> Callable[[], Any]:
    @functools.lru_cache
    def kept() -> Any:
        return value

    kept()
    return kept


class Kept:
    __module__ = "vllm.tables"

    def __init__(self, table: Any) -> None:
        self.table = table

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


class Refusing(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("asked")


@pytest.mark.parametrize(
    "keep",
    [
        lambda table: {"table": table},
        lambda table: Unfinished(table=table),
        lambda table: [[[Unfinished(table=(table,))]]],
        lambda table: [[[MappingProxyType({"table": (table,)})]]],
        lambda table: Refusing([table]),
        lambda table: MappingProxyType({"table": table}),
        lambda table: WeakValueDictionary({"table": table}),
        lambda table: cached(table),
        lambda table: Kept([(table,)]),
    ],
    ids=["dict", "unfinished", "deep", "deep proxy", "refusing", "proxy", "weak", "cache", "object"],
)
def test_what_the_engine_keeps_is_found_without_running_its_code(
    monkeypatch: pytest.MonkeyPatch, keep: Callable[[torch.Tensor], Any]
) -> None:
    table, kept = torch.ones(3), types.ModuleType("vllm.tables")
    kept.it = keep(table)
    monkeypatch.setitem(sys.modules, "vllm.tables", kept)
    assert table.untyped_storage().data_ptr() in process_wide(torch.nn.Module())
