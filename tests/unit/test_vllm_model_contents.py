"""What a model consists of, wherever its tensors hide."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from yr_fastload_native.vllm.model_contents import Live, storages
from yr_fastload_native.weights.tensor_table import TensorTable


class CPUDNNLGEMMHandler:
    """Named as vLLM's own."""


class Slotted:
    __slots__ = ("deep",)

    def __init__(self, deep: Any) -> None:
        self.deep = deep


class Holder:
    def __init__(self, **things: Any) -> None:
        vars(self).update(things)


def model() -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    made.get_parameter("0.weight").data.normal_()
    return made


def test_parameters_and_buffers() -> None:
    live = Live.of(model())
    assert {"0.weight", "0.bias", "1.running_mean", "1.num_batches_tracked"} <= live.tensors.keys()
    assert not live.opaque
    assert live.scalars["0.in_features"] == 3


HIDDEN = torch.arange(5)


@pytest.mark.parametrize(
    "thing",
    [
        HIDDEN,
        [HIDDEN],
        {"a": (HIDDEN,)},
        lambda hidden=HIDDEN: hidden,
        functools.partial(torch.add, HIDDEN),
        Holder(deep=Holder(deeper=[HIDDEN])),
        (lambda tensor: lambda: tensor)(HIDDEN),
        Slotted(HIDDEN),
    ],
    ids=["attribute", "list", "mapping", "default", "partial", "object", "closure", "slots"],
)
def test_tensors_are_found_where_they_hide(thing: Any) -> None:
    made = model()
    made[0].hidden = thing
    assert HIDDEN.data_ptr() in storages(made)


@pytest.mark.parametrize(
    "thing", [CPUDNNLGEMMHandler(), Holder(handler=12345), (lambda packed: lambda: packed)(CPUDNNLGEMMHandler())]
)
def test_what_may_hide_weights_is_named(thing: Any) -> None:
    made = model()
    made[0].cpu_linear = thing
    assert [path.startswith("0.cpu_linear") for path in Live.of(made).opaque] == [True]


def test_numbers_beside_the_tensors_count() -> None:
    one, other = model(), model()
    assert torch.equal(Live.of(one).digest(), Live.of(other).digest())
    other[0].scale = 0.5
    assert not torch.equal(Live.of(one).digest(), Live.of(other).digest())


def test_shared_memory_counts_once() -> None:
    made = model()
    before = Live.of(made).bytes()
    made[0].again = made[0].weight.detach()
    assert Live.of(made).bytes() == before


def test_a_parameter_that_means_more_than_its_bytes_is_opaque() -> None:
    made = model()
    made[0].weight.quant_state = Holder(absmax=HIDDEN)
    (found,) = Live.of(made).opaque
    assert "0.weight" in found
    assert "quant_state" in found


def test_its_tensors_are_the_model_s_own() -> None:
    """What an abandoned transfer may still write to gets other memory, and the model has to be given that."""
    made = model()
    table = TensorTable(Live.of(made).tensors, op="load", writable=True, max_tensors=100)
    index = table.index["0.weight"]
    table.replace_memory([index])
    assert made.get_parameter("0.weight").data_ptr() == table.addresses[index]
