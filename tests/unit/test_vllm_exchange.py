"""One load with an exchange around it: what it leaves behind, whatever becomes of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.unit.toy_engine import ROPES, Fast, Loader, Rope, Store, Toy, get_rope, run
from torch.multiprocessing.reductions import StorageWeakRef

from yr_fastload_native.errors import IntegrityError


@pytest.fixture(autouse=True)
def process() -> Iterator[Callable[[], None]]:
    """Each instance is a process of its own, which keeps nothing of another."""
    yield ROPES.clear
    ROPES.clear()


def test_what_a_damaged_pull_leaves_in_the_process_spreads_no_further(
    monkeypatch: pytest.MonkeyPatch, process: Callable[[], None]
) -> None:
    store = Store()
    first, outcome = run(monkeypatch, Fast(store), Loader())
    first.expect_right()
    assert (outcome["fallback"], outcome["published"]) == ("NOT_PUBLISHED", "inline")
    process()
    second, outcome = run(monkeypatch, Fast(store, damages=True), Loader())
    second.expect_right()
    assert (outcome["fallback"], outcome["published"]) == ("INTEGRITY", "inline")
    process()
    third, outcome = run(monkeypatch, Fast(store), Loader())
    assert outcome["fallback"] is None
    third.expect_right()


def test_another_model_of_the_process_keeps_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    first, _ = run(monkeypatch, Fast(store), Loader())

    def fails(model: Toy) -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        run(monkeypatch, Fast(store, damages=True), Loader(read=fails))
    first.expect_right()


def test_tables_of_the_process_are_computed_and_not_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a checkpoint has is exchanged, wherever it is kept."""
    store = Store()
    first, _ = run(monkeypatch, Fast(store), Loader())
    first.expect_right()
    assert store.published is not None
    assert store.published.tensors.keys() == {"weight", "scale", "rope.coefficient"}


def test_a_table_of_the_model_alone_is_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()

    def make() -> Toy:
        alone = Toy()
        alone.rope = Rope(8)  # not from the cache
        return alone

    made, _ = run(monkeypatch, Fast(store), Loader(make))
    made.expect_right()
    assert store.published is not None
    assert "rope.table" in store.published.tensors


def test_memory_of_a_model_given_up_is_not_trusted_when_it_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody would look for what keeps it."""
    store = Store()
    first, _ = run(monkeypatch, Fast(store), Loader())
    first.expect_right()
    hidden: list[torch.nn.Parameter] = []

    def make() -> Toy:
        made = Toy()
        if not hidden:
            hidden.append(made.weight)
        made.weight = hidden[0]
        return made

    with pytest.raises(IntegrityError, match="such as weight, lie in memory of the abandoned one"):
        run(monkeypatch, Fast(store, damages=True), Loader(make))


def test_a_model_given_up_is_kept_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    first, _ = run(monkeypatch, Fast(store), Loader())
    first.expect_right()
    before: list[weakref.ref[Toy]] = []

    def make() -> Toy:
        assert all(each() is None for each in before)
        made = Toy()
        before.append(weakref.ref(made))
        return made

    run(monkeypatch, Fast(store, damages=True), Loader(make))
    assert len(before) == 2


def test_a_cpu_keeps_no_weights_that_processing_replaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where publishing could be done later."""
    store = Store()
    kept: list[bool] = []

    def process(model: Toy) -> None:
        loaded = StorageWeakRef(model.weight.untyped_storage())  # type: ignore[no-untyped-call]
        model.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        kept.append(not loaded.expired())  # type: ignore[no-untyped-call]

    model, outcome = run(monkeypatch, Fast(store), Loader(process=process), publish="background")
    assert kept == [False]
    assert outcome["published"] == "inline"
    assert store.published is not None
    assert torch.equal(store.published.tensors["weight"], torch.arange(16.0).view(4, 4))
    assert model.weight.numel() == 0


def _interrupt(model: Any) -> None:
    raise KeyboardInterrupt


def _exit(model: Any) -> None:
    raise SystemExit


def _fail(model: Any) -> None:
    raise RuntimeError("processing failed")


@pytest.mark.parametrize("end", [_interrupt, _exit, _fail], ids=["interrupt", "exit", "error"])
@pytest.mark.parametrize("where", ["read", "process"])
@pytest.mark.parametrize("publish", ["inline", "background"])
def test_a_load_that_ends_early_leaves_no_claim(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Any], None], where: str, publish: str
) -> None:
    store = Store()
    loader = Loader(**{where: end})  # type: ignore[arg-type]
    with pytest.raises((KeyboardInterrupt, SystemExit, RuntimeError)):
        run(monkeypatch, Fast(store), loader, publish=publish)
    assert not store.claimed
    assert store.published is None


def test_a_publication_goes_with_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    fast = Fast(store)
    first, _ = run(monkeypatch, fast, Loader())
    publication = store.published
    assert publication is not None
    second, outcome = run(monkeypatch, fast, Loader())
    assert outcome["fallback"] is None
    del first
    gc.collect()
    assert not publication.closed.wait(0.05)  # the second's too
    del second
    gc.collect()
    assert publication.closed.wait(10)


@pytest.mark.usefixtures("process")
def test_a_pulled_model_that_goes_is_no_source_either(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    first, _ = run(monkeypatch, Fast(store), Loader())
    first.expect_right()
    fast = Fast(store)
    pulled, _ = run(monkeypatch, fast, Loader())
    held = fast.publication({})
    assert held is not None
    del pulled
    gc.collect()
    assert held.closed.wait(10)


def _gain(model: Any) -> None:
    model.gain = 1.0


def test_what_reading_changes_beside_the_tensors_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()

    def make() -> Toy:
        made = Toy()
        made.gain = 0.0  # type: ignore[assignment]
        return made

    def read(model: Toy) -> None:
        model.read()
        _gain(model)

    _, outcome = run(monkeypatch, Fast(store), Loader(make, read))
    assert store.published is None
    assert not store.claimed
    assert outcome["published"] == "no: gain"
    assert outcome["changed_by_reading"] == ["gain"]
    assert "such as gain" in caplog.text


def test_a_computed_table_that_reading_sets_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()

    def read(model: Toy) -> None:
        model.read()
        get_rope().table[0] = 7

    _, outcome = run(monkeypatch, Fast(store), Loader(read=read))
    assert outcome["published"] == "no: rope.table"
    assert store.published is None


def test_what_the_search_for_tables_trips_over_leaves_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def trips(model: torch.nn.Module) -> frozenset[int]:
        raise TypeError("no such thing")

    monkeypatch.setattr("yr_fastload_native.vllm.exchange.process_wide", trips)
    model, outcome = run(monkeypatch, Fast(Store()), Loader())
    model.expect_right()
    assert (outcome["fallback"], outcome["published"]) == ("TypeError: no such thing", "no")
