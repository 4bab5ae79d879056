"""What means more than its bytes is refused by name, and what only has a loader's attributes is not."""

from __future__ import annotations

import functools
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.weights.tensor_table import TensorTable


def table_of(source: Any) -> TensorTable:
    return TensorTable(source, op="publish", writable=False, max_tensors=100)


def refused(source: Any, name: str, *words: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        table_of(source)
    assert caught.value.failed_keys == (name,)
    for word in (repr(name), *words):
        assert word in str(caught.value)


class Packed(torch.nn.Parameter):
    """As parameters of bitsandbytes are: bytes, and how to read them in attributes."""

    __slots__ = ("slot",)


def packed(**attributes: Any) -> Any:
    made = torch.Tensor._make_subclass(Packed, torch.zeros(4, dtype=torch.uint8), False)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Wrapper(torch.Tensor):
    """As tensors of torchao and DTensors are: no bytes of its own."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        made: Wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    def __tensor_flatten__(self) -> Any:
        return ["inner"], None

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Dispatching(torch.Tensor):
    """With bytes of its own, which operations take for something else."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Unit(np.ndarray):
    """An array with something beside its numbers."""


def with_unit() -> Any:
    made = np.zeros(3).view(Unit)
    made.unit = "km"  # type: ignore[attr-defined]
    return made


def attribute(value: Any) -> Any:
    made = torch.nn.Parameter(torch.zeros(3))
    made.scale = value  # type: ignore[attr-defined]
    return made


SCALE = torch.ones(1)
MORE = {
    "a tensor": (lambda: packed(SCB=SCALE), "Packed with SCB"),
    "a state": (lambda: packed(quant_state=SimpleNamespace(nested=SimpleNamespace(absmax=SCALE))), "quant_state"),
    "a slot": (lambda: packed(slot=SCALE), "slot"),
    "a number": (lambda: packed(scale=0.5), "scale"),
    "a module": (lambda: packed(module=torch.nn.Linear(2, 2)), "module"),
    "of a parameter": (lambda: attribute(SCALE), "Parameter with scale"),
    "of a tensor, as an array": (lambda: attribute(np.ones(1)), "detach()"),
    "in a list": (lambda: attribute([{"a": (SCALE,)}]), "scale"),
    "bytes": (lambda: attribute(bytearray(1)), "scale"),
    "a wrapper": (lambda: Wrapper(SCALE), "is a Wrapper, which is made of other tensors"),
    "another meaning": (lambda: torch.zeros(3).as_subclass(Dispatching), "Dispatching"),
    "nested": (lambda: torch.nested.nested_tensor([torch.zeros(2)]), "nested"),
    "a mask": (lambda: np.ma.masked_array([1.0, 2.0], [False, True]), "_mask"),
    "a unit": (with_unit, "unit"),
    "records": (lambda: np.rec.array([(1, 2.0)]), "plain native numbers"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", MORE)
def test_tensors_that_mean_more_than_their_bytes(kind: str) -> None:
    make, words = MORE[kind]
    refused({"before": torch.zeros(2), "it": make(), "after": torch.zeros(2)}, "it", words)


class Loading(torch.nn.Parameter):
    """As vLLM's parameters are."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_function__(func, types, args, kwargs or {})


def test_attributes_of_loaders_pass(tmp_path: Any) -> None:
    layer = torch.nn.Linear(2, 2)
    attributes: dict[str, Any] = {
        "weight_loader": layer.reset_parameters,
        "closure": lambda: layer,
        "partial": functools.partial(torch.add, SCALE),
        "output_dim": 0,
        "shards": {"q": 0, "k": 1},
        "sizes": [1, (2, 3)],
        "is_metadata": True,
        "role": "q",
        "dtype_before": torch.int8,
        "nothing": None,
    }
    tensors = {"parameter": attribute(1.5), "buffer": torch.nn.Buffer(torch.zeros(2))}
    for name, value in attributes.items():
        setattr(tensors["parameter"], name, value)
    tensors["subclass"] = torch.Tensor._make_subclass(Loading, torch.zeros(2), False)
    vars(tensors["subclass"]).update(attributes)
    mapped = np.memmap(tmp_path / "file", np.uint8, "w+", shape=(3,))
    assert len(table_of({**tensors, "mapped": mapped}).tensors) == 4
    tensors["subclass"].myself = tensors["subclass"].__dict__  # what refers to itself has an end
    assert len(table_of(tensors).tensors) == 3


class Saving(torch.nn.Linear):
    def __init__(self, state: Any) -> None:
        super().__init__(2, 2)
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state


class SavingParts(Saving):
    get_extra_state = torch.nn.Module.get_extra_state

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = self.state


class SavingAll(Saving):
    get_extra_state = torch.nn.Module.get_extra_state

    def state_dict(self, *arguments: Any, **settings: Any) -> Any:
        return {"renamed": self.weight.detach(), "meta": self.state}


SAVED = [(Saving, "_extra_state"), (SavingParts, "weight.absmax"), (SavingAll, "meta")]


@pytest.mark.parametrize(("kind", "name"), SAVED)
@pytest.mark.parametrize("state", [SCALE, {"a": 1}, io.BytesIO(b"x"), 3])
def test_modules_that_save_more_than_tensors(kind: Any, name: str, state: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), kind(state))
    refused(model, f"1.{name}", kind.__name__, "mapping")
    assert len(table_of(dict(model.named_parameters())).tensors) == 4


@pytest.mark.parametrize(("kind", "name"), SAVED)
@pytest.mark.parametrize("state", [None, b"", {}, torch.zeros(0), io.BytesIO()])
def test_modules_that_could_save_more_and_have_nothing(kind: Any, name: str, state: Any) -> None:
    assert len(table_of(torch.nn.Sequential(kind(state))).tensors) == 2
