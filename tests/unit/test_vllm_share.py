"""Instances of any layout load from a checkpoint that one of them has published; what is published by which setting."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.toy_engine import Loader, run

import yr_fastload_native as fl
from yr_fastload_native.catalogue.checkpoint import is_checkpoint
from yr_fastload_native.publishing.growth import Growth
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.vllm import session
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.shared_checkpoint import SharedCheckpoint

from ..waiting import wait_until

COUNT = 3 << 18
Opener = Callable[..., fl.FastLoader]


class RankModel(torch.nn.Module):
    """A rank's part of one weight, and another that it has whole."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.part = slice(rank * COUNT // ranks, (rank + 1) * COUNT // ranks)
        self.weight = torch.nn.Parameter(torch.zeros(COUNT // ranks), requires_grad=False)
        self.norm = torch.nn.Parameter(torch.zeros(5), requires_grad=False)

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        for name, tensor in weights:
            target = self.weight if name == "model.weight" else self.norm
            target.data.copy_(tensor[self.part] if name == "model.weight" else tensor)


class RankLoader(Loader):
    """As vLLM's default loader, of one rank; it counts how often it reads the disk."""

    def __init__(self, directory: Path, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(lambda: RankModel(rank, ranks))
        self._file = directory / "model.safetensors"
        self.load_config = SimpleNamespace(load_format="auto")
        self.disk_reads = 0

    def _prepare_weights(self, model_name_or_path: str, revision: str | None) -> list[str]:
        return [str(self._file)]

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
        self.disk_reads += 1
        yield from load_file(self._file).items()

    def load_weights(self, model: Any, model_config: Any) -> None:
        model.load_weights(self.get_all_weights(model_config, model))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_file({"model.weight": torch.arange(float(COUNT)), "model.norm": torch.rand(5)}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, directory: Path, open_loader: Opener) -> Callable[..., Any]:
    """Starts one rank of an instance, in whose identity its layout is; all live until the test ends."""
    models: list[RankModel] = []

    def started(share: str, rank: int = 0, ranks: int = 1, **settings: Any) -> tuple[RankLoader, dict[str, Any]]:
        loader = RankLoader(directory, rank, ranks)
        chosen = {"fingerprint": "files", "verify_files": "off", "share": share, **settings}
        identity = {"model": "ranks", "rank": rank, "ranks": ranks}
        model, outcome = run(monkeypatch, open_loader(), loader, identity=identity, model=str(directory), **chosen)
        models.append(model)
        wanted = load_file(directory / "model.safetensors")
        assert torch.equal(model.weight, wanted["model.weight"][model.part])
        assert torch.equal(model.norm, wanted["model.norm"])
        return loader, outcome

    return started


def published(loader: fl.FastLoader) -> list[str]:
    return sorted("checkpoint" if is_checkpoint(each) else "sharded" for each in loader.identities())


def test_another_layout_reads_no_disk(start: Callable[..., Any]) -> None:
    first, outcome = start("checkpoint")
    assert outcome["checkpoint"]["from_files"] == []
    assert first.disk_reads == 0  # but for publishing
    assert (outcome["fallback"], outcome["published"]) == (None, "no")
    for rank in range(2):
        loader, outcome = start("checkpoint", rank, 2, publish="off")
        assert loader.disk_reads == 0
        assert outcome["checkpoint"]["tensors"] == 2


@pytest.mark.parametrize("share", ["checkpoint", "auto"])
def test_published_while_it_is_read(start: Callable[..., Any], guest: fl.FastLoader, share: str) -> None:
    """The disk is read once, for the worker's memory, and the first one loads from there too."""
    first, outcome = start(share, publish="background")
    assert first.disk_reads == 0
    assert outcome["checkpoint"]["from_files"] == []
    assert wait_until(lambda: published(guest) == ["checkpoint"])
    other, outcome = start(share, 1, 2, publish="background")
    assert other.disk_reads == 0
    assert outcome["checkpoint"]["from_files"] == []


def test_a_publish_that_fails_half_way(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, store: MemoryStore
) -> None:
    """The load goes on from the files, and nothing is left."""
    real_stored, real_checkpoint, opened = Growth.stored, fl.FastLoader.checkpoint, threading.Event()

    def checkpoint(*args: Any, **kwargs: Any) -> Any:
        found = real_checkpoint(*args, **kwargs)
        opened.set()
        return found

    def stored(growth: Growth, chunks: Any) -> None:
        real_stored(growth, chunks[:1])
        assert opened.wait(10)
        raise fl.UnavailableError("the disk is gone", op="publish")

    monkeypatch.setattr(fl.FastLoader, "checkpoint", checkpoint)
    monkeypatch.setattr(Growth, "stored", stored)
    first, outcome = start("checkpoint", publish="background", deadline_s=5)
    assert first.disk_reads == 0
    assert len(outcome["checkpoint"]["from_files"]) in (1, 2)  # what had come may be gone before it was read
    assert wait_until(lambda: not store.keys())


def test_sharded_as_ever(start: Callable[..., Any], guest: fl.FastLoader) -> None:
    assert start("sharded")[0].disk_reads == 1
    assert start("sharded")[0].disk_reads == 0
    assert start("sharded", 0, 2)[0].disk_reads == 1
    assert set(published(guest)) <= {"sharded"}


@pytest.mark.parametrize(("share", "kinds"), [("auto", {"checkpoint"}), ("both", {"checkpoint", "sharded"})])
def test_what_is_published(start: Callable[..., Any], guest: fl.FastLoader, share: str, kinds: set[str]) -> None:
    loader, outcome = start(share)
    assert loader.disk_reads == 0
    assert wait_until(lambda: set(published(guest)) == kinds)
    again, pulled = start(share)
    assert again.disk_reads == 0
    assert (pulled["transport"] is not None) == ("sharded" in kinds)
    assert outcome["published"] == ("inline" if "sharded" in kinds else "no: the checkpoint is published")
    other, _ = start(share, 1, 2)
    assert other.disk_reads == 0


@pytest.mark.parametrize("publish", ["inline", "background"])
def test_a_pool_that_has_room_for_a_part_only(
    start: Callable[..., Any], store: MemoryStore, guest: fl.FastLoader, publish: str
) -> None:
    store.set_faults(capacity_bytes=3 * COUNT)
    loader, outcome = start("auto", 1, 2, publish=publish)
    assert loader.disk_reads == 1
    assert (outcome["checkpoint"], outcome["published"]) == (None, "inline")
    assert wait_until(lambda: published(guest) == ["sharded"])


def test_a_checkpoint_ends_with_its_last_model(
    monkeypatch: pytest.MonkeyPatch, directory: Path, loader: fl.FastLoader, guest: fl.FastLoader
) -> None:
    chosen = {"fingerprint": "files", "verify_files": "off", "share": "checkpoint"}
    model, _ = run(monkeypatch, loader, RankLoader(directory), model=str(directory), **chosen)
    another, _ = run(monkeypatch, loader, RankLoader(directory, 1, 2), model=str(directory), **chosen)
    assert wait_until(lambda: published(guest) == ["checkpoint"])
    del model
    gc.collect()
    guest.checkpoint(directory)
    del another
    gc.collect()
    assert wait_until(lambda: not guest.is_published(guest.checkpoint_identity(directory)))


def test_no_fall_back(start: Callable[..., Any]) -> None:
    for share in ("checkpoint", "auto"):
        with pytest.raises(fl.NotPublishedError):
            start(share, fallback="error")
    start("checkpoint")
    for share in ("checkpoint", "auto"):
        start(share, 1, 2, fallback="error")


def test_nothing_is_published_where_that_is_off(start: Callable[..., Any], guest: fl.FastLoader) -> None:
    for share in ("checkpoint", "auto"):
        assert start(share, publish="off")[0].disk_reads == 1
    assert not published(guest)


def test_a_loader_that_reads_in_a_way_of_its_own(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, guest: fl.FastLoader
) -> None:
    monkeypatch.delattr(RankLoader, "get_all_weights")
    monkeypatch.setattr(
        RankLoader, "load_weights", lambda self, model, _: model.load_weights(load_file(self._file).items())
    )
    _, outcome = start("checkpoint")
    assert outcome["checkpoint"] is None
    assert not published(guest)


def test_parts_that_have_files_of_their_own(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They come from disk, and are not in the model's own checkpoint."""
    part = tmp_path / "part"
    part.mkdir()
    save_file({"norm": torch.full((5,), 7.0)}, part / "part.safetensors")
    asked: list[Any] = []

    def iterator(self: Any, source: Any) -> Iterator[tuple[str, torch.Tensor]]:
        asked.append(source)
        return iter(())

    monkeypatch.setattr(RankLoader, "_get_weights_iterator", iterator, raising=False)
    monkeypatch.setattr(RankLoader, "Source", object, raising=False)
    source = SimpleNamespace(model_or_path=str(part), revision=None)
    monkeypatch.setattr(RankModel, "secondary_weights", [source], raising=False)
    start("checkpoint")
    assert asked == [source]


@pytest.mark.parametrize("publish_when", ["inline", "background"])
def test_of_ranks_that_start_together_one_reads_the_disk(
    monkeypatch: pytest.MonkeyPatch, directory: Path, open_loader: Opener, publish_when: str
) -> None:
    ranks = 3
    loaders = [open_loader() for _ in range(ranks)]
    mine = threading.local()
    monkeypatch.setattr(session, "loader_of", lambda config: mine.fast)
    publications: list[fl.Publication] = []
    real = fl.FastLoader.publish_checkpoint

    def publish(self: fl.FastLoader, *args: Any, **kwargs: Any) -> fl.Publication:
        publications.append(real(self, *args, **kwargs))
        return publications[-1]

    monkeypatch.setattr(fl.FastLoader, "publish_checkpoint", publish)
    config = SimpleNamespace(model=str(directory), revision=None)

    def load(rank: int) -> torch.Tensor:
        mine.fast = loaders[rank]
        loader, model = RankLoader(directory, rank, ranks), RankModel(rank, ranks)
        shared = SharedCheckpoint(
            loader, Settings.of({"share": "checkpoint", "verify_files": "off", "publish": publish_when})
        )
        with shared.read_instead(model, config, {}):
            loader.load_weights(model, config)
        assert loader.disk_reads == 0
        return model.weight.data

    with ThreadPoolExecutor(ranks) as pool:
        weights = list(pool.map(load, range(ranks)))
    assert len(publications) == 1
    whole = torch.arange(float(COUNT))
    assert all(torch.equal(weight, whole[RankModel(rank, ranks).part]) for rank, weight in enumerate(weights))
