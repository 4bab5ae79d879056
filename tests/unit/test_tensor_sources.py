"""What tensors may come in: modules and mappings, their names, and many tensors at once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from yr_fastload_native import _core
from yr_fastload_native.errors import DeviceError, InvalidArgumentError, ResourceExhaustedError

from .tables import SHARED, table_of


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.head = torch.nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.norm = torch.nn.BatchNorm1d(4)
        self.register_buffer("scratch", torch.zeros(5), persistent=False)
        self.register_buffer("none", None)
        self.norm.register_buffer("tied_scratch", self.scratch)


def test_a_module_gives_parameters_and_buffers_with_every_name_of_the_tied() -> None:
    model = Model()
    table = table_of(model, writable=True)
    assert [tensor.name for tensor in table.tensors] == [
        *("embed.weight", "head.weight", "norm.weight", "norm.bias"),
        *("scratch", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked", "norm.tied_scratch"),
    ]
    aliases = {tensor.name: table.alias(i) for i, tensor in enumerate(table.tensors) if table.alias(i)}
    assert aliases == {"head.weight": ("embed.weight", 0), "norm.tied_scratch": ("scratch", 0)}
    assert table.bytes == 4 * (40 + 4 + 4 + 5 + 4 + 4) + 8
    assert table.tensors[table.index["scratch"]].address == model.scratch.data_ptr()


def test_views_of_one_tensor_in_a_mapping() -> None:
    store = torch.zeros(8, 4)
    table = table_of({"tail": store[6:], "all": store, "flat": store.view(-1), "other": torch.zeros(3)})
    assert [table.alias(i) for i in range(4)] == [("all", 96), None, ("all", 0), None]
    assert table.bytes == 128 + 12
    assert list(table.addresses) == [tensor.address for tensor in table.tensors]


def test_partial_overlap_names_both() -> None:
    store = torch.zeros(10)
    with pytest.raises(InvalidArgumentError, match="'left' and 'right' overlap") as caught:
        table_of({"free": torch.zeros(1), "left": store[:6], "right": store[4:]})
    assert caught.value.failed_keys == ("left", "right")
    assert caught.value.op == "load"


@pytest.mark.parametrize("name", ["", 1, None, b"w", ("a", "b")])
def test_names_are_non_empty_strings(name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="not a non-empty string"):
        table_of({name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["\ud800", "x" * 4097])
def test_names_that_no_manifest_can_hold(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Unicode text of at most 4096"):
        table_of({name: torch.zeros(1)})
    assert table_of({"模" * 4096: torch.zeros(1)}).tensors[0].bytes == 4


class TwoOfOneName(torch.nn.Module):
    def named_buffers(self, *args: Any, **settings: Any) -> Any:
        return iter([("w", torch.zeros(1)), ("w", torch.zeros(1))])


def test_names_are_unique() -> None:
    with pytest.raises(InvalidArgumentError, match="two tensors are named 'w'") as caught:
        table_of(TwoOfOneName())
    assert caught.value.failed_keys == ("w",)


@pytest.mark.parametrize("source", [None, [torch.zeros(1)], torch.zeros(1), "weights", 3])
def test_other_sources_are_refused(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"torch\.nn\.Module or a mapping"):
        table_of(source)


def test_the_number_of_tensors_is_bounded() -> None:
    tensors = {str(i): torch.zeros(1) for i in range(4)}
    assert len(table_of(tensors, max_tensors=4).tensors) == 4
    with pytest.raises(ResourceExhaustedError, match="max_tensors=3"):
        table_of(tensors, max_tensors=3)


def test_nothing_is_a_table_too() -> None:
    table = table_of({})
    assert (table.tensors, table.bytes, len(table.addresses)) == ([], 0, 0)


class Subclass(torch.Tensor):
    """As vLLM's parameters are."""


def plain_tensors() -> dict[str, Any]:
    made: dict[str, Any] = {name: torch.zeros(3, 1, 5).to(getattr(torch, name)) for name in SHARED}
    made |= {f"rank {rank}": torch.zeros([2] * rank) for rank in range(1, 6)}
    made |= {
        "scalar": torch.tensor(1.5),
        "parameter": torch.nn.Parameter(torch.zeros(7)),
        "subclass": torch.zeros(4, 4).as_subclass(Subclass),
        "slice": torch.zeros(9, 2)[3:5],
        "channels of one": torch.zeros(2, 1, 3).transpose(0, 1),
    }
    return made


def other_tensors() -> dict[str, Any]:
    return {
        "turned": torch.zeros(4, 6).t(),
        "empty": torch.zeros(0, 3),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "array": np.zeros(3, np.float32),
        "buffer": bytearray(5),
    }


needs_exchange = pytest.mark.skipif(
    not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no DLPack exchange API"
)


@needs_exchange
def test_all_at_once_and_one_by_one_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = plain_tensors() | other_tensors()
    read_tensors, left = _core.read_tensors, []

    def spy(values: list[Any], *rest: Any) -> tuple[Any, ...]:
        found = read_tensors(values, *rest)
        left.extend(list(tensors)[index] for index in found[-1])
        return found

    monkeypatch.setattr(_core, "read_tensors", spy)
    quick = table_of(tensors)
    assert set(left) == {*other_tensors(), "complex64", "complex128"}
    nothing = bytes(8 * len(tensors))
    monkeypatch.setattr(
        _core, "read_tensors", lambda values, *rest: ([], nothing, nothing, nothing, range(len(values)))
    )
    slow = table_of(tensors)
    assert sorted(quick.layouts) == sorted(set(slow.layouts))
    for mine, theirs in zip(quick.tensors, slow.tensors, strict=True):
        if mine.name != "buffer":  # whose owner is a view
            assert mine == theirs
            assert type(mine.shape) is type(theirs.shape) is tuple
    assert (quick.device, quick.addresses, quick.moving) == (slow.device, slow.addresses, slow.moving)


@needs_exchange
@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:Lazy modules", "ignore:Sparse")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch._neg_view(torch.zeros(3)),
        lambda: torch.imag(torch.zeros(1, dtype=torch.complex64).conj()),
        lambda: torch.nn.parameter.UninitializedParameter(),
        lambda: torch.zeros(3, device="meta"),
        lambda: torch.zeros(3).to_sparse(),
        lambda: torch.zeros(3, 3).to_mkldnn(),
        lambda: torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8),
    ],
)
def test_what_is_not_plain_is_not_read_all_at_once(make: Any) -> None:
    with pytest.raises((InvalidArgumentError, DeviceError), match="'it'"):
        table_of({"before": torch.zeros(2), "it": make(), "after": torch.zeros(2)})


@needs_exchange
def test_reading_all_at_once_counts_references_right() -> None:
    tensors = {f"t{i}": torch.zeros(2, 3) for i in range(100)}
    gone = [weakref.ref(tensor) for tensor in tensors.values()]
    for _ in range(3):
        table_of(tensors)
    table = table_of(tensors)
    tensors.clear()
    assert all(each() is not None for each in gone)
    del table
    gc.collect()
    assert all(each() is None for each in gone)
