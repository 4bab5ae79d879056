"""Weights that processing replaces are published while it goes on, once too many of them are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.toy_engine import Fast, Store

from yr_fastload_native.vllm import publishing
from yr_fastload_native.vllm.processing import Processing
from yr_fastload_native.vllm.publishing import RawWeights, Source
from yr_fastload_native.vllm.settings import Settings

BYTES = 4 * 25  # of a layer


class Method:
    """Of quantisation; replaces the weight, or leaves it."""

    def __init__(self, replaces: bool = True) -> None:
        self._replaces = replaces

    def process_weights_after_loading(self, layer: Any) -> None:
        if self._replaces:
            layer.weight = torch.nn.Parameter(layer.weight.t().contiguous(), requires_grad=False)


class Itself(torch.nn.Module):
    """One that is asked itself, as attention is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(5, 5), requires_grad=False)

    def process_weights_after_loading(self, act_dtype: Any) -> None:
        self.weight = torch.nn.Parameter(torch.ones(5, 5), requires_grad=False)


def layers(count: int, method: Method) -> torch.nn.Module:
    made = torch.nn.Sequential(*(torch.nn.Linear(5, 5, bias=False) for _ in range(count)))
    for layer in made:
        layer.quant_method = method
    return made


def process(model: Any) -> None:
    for layer in model:
        layer.quant_method.process_weights_after_loading(layer)


class Told:
    def __init__(self) -> None:
        self.gone: list[set[int]] = []

    def left(self, gone: Any) -> None:
        self.gone.append(set(gone))


def test_each_module_is_told_once_with_what_it_left() -> None:
    shared = layers(3, Method())
    places = [{layer.weight.data_ptr()} for layer in shared]
    kept = [layer.weight for layer in shared]
    told = Told()
    processing = Processing(shared, told.left)
    process(shared)
    assert told.gone == places
    processing.end()
    processing.end()
    process(shared)
    assert len(told.gone) == 3
    assert "process_weights_after_loading" not in vars(shared[0].quant_method)
    del kept


def test_what_stays_is_not_left_and_modules_may_be_asked_themselves() -> None:
    told, model = Told(), torch.nn.Sequential(Itself())
    place = {model[0].weight.data_ptr()}
    kept = model[0].weight
    processing = Processing(model, told.left)
    model[0].process_weights_after_loading(torch.float32)
    stays = layers(2, Method(replaces=False))
    of_others = Processing(stays, told.left)
    process(stays)
    assert told.gone == [place, set(), set()]
    processing.end()
    of_others.end()
    del kept


def test_nobody_is_kept_by_it() -> None:
    model, told = layers(1, Method()), Told()
    processing = Processing(model, told.left)
    gone = told.gone
    del told
    process(model)
    assert gone == []
    processing.end()


class Counts(Fast):
    """And says how many layers were processed when it published, and as what."""

    def __init__(self, model: Any) -> None:
        super().__init__(Store())
        self.at: list[tuple[int, Any]] = []
        self._model = model
        self._first = [layer.weight.data_ptr() for layer in model]

    def publish(self, *args: Any, publish_as: str | None = None, **settings: Any) -> Any:
        pairs = zip(self._model, self._first, strict=True)
        self.at.append((sum(layer.weight.data_ptr() != first for layer, first in pairs), publish_as))
        return super().publish(*args, **settings)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(publishing, "_can_refer", lambda: True)
    monkeypatch.setattr(Settings, "_check_device", lambda settings: None)
    # Where tensors are on a device.
    monkeypatch.setattr(RawWeights, "_publish_as", lambda raw, replaced: "staged" if replaced else None)

    def run(method: Method, **settings: Any) -> tuple[Counts, RawWeights, dict[str, Any]]:
        model = layers(8, method)
        fast, outcome = Counts(model), {}
        source = Source(fast, {"model": "m"}, Settings.of({"publish": "background", **settings}))
        raw = RawWeights(source, dict(model.named_parameters()))
        raw.before_processing(model)
        process(model)
        raw.after_processing(model, outcome)
        assert publishing.wait(10)
        return fast, raw, outcome

    return run


@pytest.mark.parametrize(("most", "after"), [(BYTES - 1, 1), (BYTES, 2), (3 * BYTES, 4)])
def test_they_are_published_once_more_is_kept_than_may_be(published: Any, most: int, after: int) -> None:
    fast, raw, outcome = published(Method(), publish_device_bytes=most)
    assert fast.at == [(after, "staged")]
    assert (outcome["published"], raw._tensors) == ("inline", {})


def test_few_are_kept_until_the_end_and_none_if_all_stay(published: Any) -> None:
    fast, _, outcome = published(Method(), publish_device_bytes=8 * BYTES)
    assert (fast.at, outcome["published"]) == ([(8, "staged")], "background")
    fast, _, outcome = published(Method(replaces=False), publish_device_bytes=1)
    assert (fast.at, outcome["published"]) == ([(0, None)], "background")


def test_by_default_a_twentieth_may_be_kept(published: Any) -> None:
    assert published(Method())[0].at == [(1, "staged")]  # of 8 layers, where nobody knows the device's memory


def test_those_that_are_wanted_by_reference_are_kept(published: Any) -> None:
    fast, _, _ = published(Method(), publish_device_bytes=1, publish_as="d2d")
    assert [count for count, _ in fast.at] == [8]
