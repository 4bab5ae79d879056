"""Checkpoints that are read while they are published: chunk by chunk, each of them right, or from the files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.loader import checkpoint as loader_checkpoint
from yr_fastload_native.publishing.growth import Growth
from yr_fastload_native.publishing.publisher import Publisher
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until
from .published_files import as_bytes, assert_right, chunk_keys, make_files, weights

PATIENCE_S = 20.0
FIRST = 3  # chunks that can be read at once
Opener = Callable[..., fl.FastLoader]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_files(tmp_path / "some-model")


class HalfWay:
    """A publish in another thread, which tells of its first chunks, and of the rest once it may."""

    def __init__(self, pool: ThreadPoolExecutor, patch: pytest.MonkeyPatch) -> None:
        self._pool = pool
        self._may_go_on = threading.Event()
        self._told = threading.Event()
        self.error: Exception | None = None
        real = Growth.stored

        def stored(growth: Growth, chunks: Sequence[tuple[int, int]]) -> None:
            real(growth, chunks[:FIRST])
            if not chunks:
                return
            self._told.set()
            assert self._may_go_on.wait(PATIENCE_S)
            if self.error is not None:
                raise self.error
            real(growth, chunks[FIRST:])

        patch.setattr(Growth, "stored", stored)

    def start(self, loader: fl.FastLoader, directory: Path) -> Future[fl.Publication]:
        publishing = self._pool.submit(loader.publish_checkpoint, directory)
        assert self._told.wait(PATIENCE_S)
        return publishing

    def go_on(self) -> None:
        self._may_go_on.set()

    def fail(self) -> None:
        self.error = fl.UnavailableError("the disk is gone", op="publish")
        self.go_on()


@pytest.fixture
def half_way(monkeypatch: pytest.MonkeyPatch) -> Iterator[HalfWay]:
    with ThreadPoolExecutor() as pool:
        made = HalfWay(pool, monkeypatch)
        yield made
        made.go_on()


@pytest.fixture
def publisher(open_loader: Opener) -> fl.FastLoader:
    return open_loader(max_blobs=1)  # a chunk for each tensor


def names_told(opened: fl.PublishedCheckpoint) -> list[str]:
    """Of the tensors that can be read by now."""
    arriving = opened._reader._arriving
    assert arriving is not None
    arriving._look()
    return [name for name in opened if arriving.has(opened._reader.entries[name].chunk)]


def test_what_is_there_can_be_read_and_the_rest_is_waited_for(
    publisher: fl.FastLoader, guest: fl.FastLoader, directory: Path, half_way: HalfWay
) -> None:
    publishing = half_way.start(publisher, directory)
    opened = guest.checkpoint(directory, framework="torch")
    there = names_told(opened)
    assert 0 < len(there) <= FIRST
    wanted = weights()
    assert all(torch.equal(as_bytes(opened[name]), as_bytes(wanted[name])) for name in there)
    threading.Timer(0.2, half_way.go_on).start()
    assert_right(opened, wanted)
    assert not opened.from_files
    assert publishing.result().generation == opened.generation
    assert_right(guest.checkpoint(directory, framework="torch"), wanted)


def test_it_is_opened_before_anything_has_come(
    publisher: fl.FastLoader, guest: fl.FastLoader, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced, may_go_on = threading.Event(), threading.Event()
    real = Growth.stored

    def stored(growth: Growth, chunks: Sequence[tuple[int, int]]) -> None:
        assert not chunks or may_go_on.wait(PATIENCE_S)
        real(growth, chunks)

    monkeypatch.setattr(Growth, "stored", stored)
    with ThreadPoolExecutor() as pool:
        publishing = pool.submit(publisher.publish_checkpoint, directory, announced=announced.set)
        assert announced.wait(PATIENCE_S)
        opened = guest.checkpoint(directory, framework="torch")
        assert not names_told(opened)
        may_go_on.set()
        assert_right(opened, weights())
        assert not opened.from_files
        publishing.result()


def test_tensors_that_share_chunks_come_first(
    open_loader: Opener, guest: fl.FastLoader, directory: Path, half_way: HalfWay
) -> None:
    """Whoever reads tensors in the order of the files needs a small one all the time."""
    half_way.start(open_loader(copy_threads=1), directory)
    opened = guest.checkpoint(directory)
    assert set(names_told(opened)) >= weights().keys() - {"embed", "empty"}


def test_a_chunk_that_does_not_come(
    publisher: fl.FastLoader, open_loader: Opener, directory: Path, half_way: HalfWay
) -> None:
    publishing = half_way.start(publisher, directory)
    guest = open_loader(hold=False, deadline_s=0.3)
    opened = guest.checkpoint(directory, framework="torch")
    there = names_told(opened)
    alone = guest.checkpoint(dict(opened.identity), framework="torch")
    (late, *_) = (name for name in weights() if name not in (*there, "empty"))
    with pytest.raises(fl.TransferTimeoutError, match=r"no chunk came for 0\.3 s"):
        alone[late]
    assert_right(opened, weights())
    assert not set(opened.from_files) & set(there)
    half_way.go_on()
    publishing.result()
    assert_right(alone, weights())


def test_a_publisher_that_fails_half_way(
    publisher: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path, half_way: HalfWay
) -> None:
    """What has come stays, and only the rest is read from the files."""
    publishing = half_way.start(publisher, directory)
    opened = guest.checkpoint(directory, framework="torch")
    alone = guest.checkpoint(dict(opened.identity), framework="torch")
    there = names_told(opened)
    came = {name: opened[name] for name in there}
    half_way.fail()
    with pytest.raises(fl.UnavailableError, match="the disk is gone"):
        publishing.result()
    assert not store.keys()
    wanted = weights()
    assert all(torch.equal(as_bytes(came[name]), as_bytes(wanted[name])) for name in there)
    assert_right(opened, wanted)
    assert set(opened.from_files) == wanted.keys() - {"empty"} - set(there)
    with pytest.raises(fl.PartialTransferError, match="has gone before all of it was there"):
        dict(alone)


def test_a_publisher_whose_lease_ends(
    publisher: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path, half_way: HalfWay
) -> None:
    """As of one that was killed: its chunks are there for a while, and nobody tells of more."""
    half_way.start(publisher, directory)
    opened = guest.checkpoint(directory, framework="torch")
    there = names_told(opened)
    who = Identity.of(opened.identity, op="test")
    store.erase([who.head_key], deadline_s=5)
    assert_right(opened, weights())
    assert not set(opened.from_files) & set(there)


def test_files_that_change_half_way(
    publisher: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path, half_way: HalfWay
) -> None:
    publishing = half_way.start(publisher, directory)
    opened = guest.checkpoint(directory)
    there = names_told(opened)
    (directory / "model-2.safetensors").touch()
    half_way.go_on()
    with pytest.raises(fl.IntegrityError, match="was written to or replaced meanwhile"):
        publishing.result()
    assert not store.keys()
    with pytest.raises(fl.IntegrityError, match="was written to or replaced meanwhile"):
        {name: opened[name] for name in opened if name not in there}


def test_a_reader_elsewhere_compares_what_is_told(
    publisher: fl.FastLoader,
    guest: fl.FastLoader,
    store: MemoryStore,
    directory: Path,
    half_way: HalfWay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publishing = half_way.start(publisher, directory)
    monkeypatch.setattr(loader_checkpoint, "pool_of", lambda address: "another machine/")
    opened = guest.checkpoint(directory, framework="torch")
    (damaged, *_) = (name for name in names_told(opened) if name != "empty")
    store.set_faults(corrupt=[opened._reader.generation.manifest.chunks[opened._reader.entries[damaged].chunk].key])
    half_way.go_on()
    publishing.result()
    assert_right(opened, weights())
    assert opened.from_files == [damaged]


@pytest.mark.parametrize(
    "told",
    [
        b"[]",
        msgspec.json.encode({"format": 2, "generation": "", "chunks": []}),
        msgspec.json.encode({"format": 1, "generation": "0" * 16, "chunks": []}),
        "beyond",
    ],
)
def test_what_is_told_is_hostile(
    publisher: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path, half_way: HalfWay, told: Any
) -> None:
    half_way.start(publisher, directory)
    opened = guest.checkpoint(guest.checkpoint_identity(directory))
    who = Identity.of(opened.identity, op="test")
    if told == "beyond":
        beyond = [[1000, "0" * 16]]
        told = msgspec.json.encode({"format": 1, "generation": opened.generation, "chunks": beyond})
    store.set(who.arrived_key(opened.generation), told, ttl_s=60, deadline_s=5)
    with pytest.raises(fl.IntegrityError, match="the list of chunks that can be read"):
        dict(opened)


def test_a_second_publisher_waits_for_the_first(
    publisher: fl.FastLoader, other_loader: fl.FastLoader, directory: Path, half_way: HalfWay
) -> None:
    first = half_way.start(publisher, directory)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(other_loader.publish_checkpoint, directory)
        half_way.go_on()
        assert first.result().generation == second.result().generation
        assert (first.result().joined, second.result().joined) == (False, True)


def test_a_publisher_that_is_overtaken_joins(
    open_loader: Opener, store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both began before anything was announced."""
    ahead = open_loader()
    real, published = Publisher._store_chunks, []

    def store_chunks(publisher: Publisher, *args: Any) -> Any:
        if not published:
            published.append(None)
            published.append(ahead.publish_checkpoint(directory))
        return real(publisher, *args)

    monkeypatch.setattr(Publisher, "_store_chunks", store_chunks)
    publication = open_loader().publish_checkpoint(directory)
    assert publication.joined
    assert publication.generation == published[1].generation
    assert all(publication.generation in key for key in chunk_keys(store))


def test_a_reader_becomes_a_source_once_all_is_there(
    publisher: fl.FastLoader, other_loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, half_way: HalfWay
) -> None:
    publishing = half_way.start(publisher, directory)
    opened = other_loader.checkpoint(directory)
    assert other_loader.publication(opened.identity) is None
    half_way.go_on()
    assert wait_until(lambda: other_loader.publication(opened.identity))
    assert publishing.result().sources() == 2
    publisher.close()
    assert_right(guest.checkpoint(directory, framework="torch"), weights())


def test_what_was_lost_with_its_worker_is_published_again(
    open_loader: Opener, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    publication = open_loader(lease_s=2).publish_checkpoint(directory)
    before = publication.generation
    store.clear()
    assert wait_until(lambda: publication.generation != before)
    assert wait_until(lambda: publication.state == "live")
    assert_right(guest.checkpoint(directory, framework="torch"), weights())
    (directory / "model-2.safetensors").touch()
    assert wait_until(lambda: publication.state == "failed")


def test_files_that_changed_are_not_published_again(
    open_loader: Opener, store: MemoryStore, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publication = open_loader(lease_s=2).publish_checkpoint(directory)
    publication._guard.stop()  # type: ignore[union-attr]  # which might be first to look at the files
    publication._guard.join(PATIENCE_S)  # type: ignore[union-attr]
    (directory / "model-2.safetensors").touch()
    store.clear()
    assert wait_until(lambda: publication.origin is None)
    assert "was written to or replaced meanwhile" in caplog.text
    assert not chunk_keys(store)
