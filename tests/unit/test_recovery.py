"""What was lost with its worker is published again, or it is said why not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.listing import look
from yr_fastload_native.loader import store_link
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.eviction import evict
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until
from .keys import keys_with

Open = Callable[..., fl.FastLoader]


def weights(value: int = 1) -> dict[str, np.ndarray]:
    return {"a": np.full(1 << 12, value, np.uint8), "b": np.full(33, value, np.uint8)}


def loaded(loader: fl.FastLoader, identity: dict[str, str]) -> int | None:
    """The value of all weights; None if none are published."""
    target = weights(0)
    try:
        loader.load(target, identity)
    except fl.NotPublishedError:
        return None
    (value,) = {int(each) for tensor in target.values() for each in np.unique(tensor)}
    return value


def is_given_up(publication: fl.Publication) -> bool:
    return wait_until(lambda: publication.origin is None)


def test_what_the_worker_forgot_is_published_again(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    tensors = weights()
    loader = open_loader(lease_s=2)
    publication = loader.publish(tensors, identity, files={"f": "0" * 64})
    before = publication.generation
    store.clear()
    assert loaded(guest, identity) is None
    assert wait_until(lambda: loaded(guest, identity)) == 1
    assert wait_until(lambda: publication.state == "live")
    assert loader.publication(identity) is publication
    assert publication.generation != before
    assert guest.files(identity) == {"f": "0" * 64}
    publication.close()
    assert not keys_with(store, "chunk")


@pytest.mark.parametrize("part", ["chunk", "manifest"])
def test_what_the_worker_forgot_in_part_is_published_again_at_once(
    part: str, open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """Though the head is there, and would be for the rest of its lease."""
    lease_s = 6
    tensors = weights()
    publication = open_loader(lease_s=lease_s).publish(tensors, identity)
    before = publication.generation
    assert wait_until(lambda: publication.lease_age_s > 0.1)
    store.erase(keys_with(store, part), deadline_s=1)
    assert wait_until(lambda: publication.generation != before, 1.2 * lease_s)
    assert publication.state == "live"
    assert loaded(guest, identity) == 1


def test_what_nobody_has_a_copy_of_is_published_again(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """Though the worker lists all of it."""
    tensors = weights()
    publication = open_loader(lease_s=2).publish(tensors, identity)
    before = publication.generation
    store.set_faults(no_copy=keys_with(store, "chunk"))
    assert wait_until(lambda: publication.generation != before)
    assert wait_until(lambda: publication.state == "live")
    assert loaded(guest, identity) == 1


def test_a_reader_publishes_again_what_it_was_left_with(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    target = weights(0)
    with open_loader() as first:
        first.publish(weights(), identity)
        open_loader(lease_s=2).load(target, identity)
    store.clear()
    assert wait_until(lambda: loaded(guest, identity)) == 1


def test_aliases_of_tensors_that_live_on_are_published_again(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """As a framework makes them of its parameters, and not of those that it has given up."""
    torch = pytest.importorskip("torch")
    kept = {name: torch.from_numpy(tensor).clone() for name, tensor in weights().items()}
    loader = open_loader(lease_s=2)
    publication = loader.publish({name: tensor.detach() for name, tensor in kept.items()}, identity)
    before = publication.generation
    store.clear()
    assert wait_until(lambda: loaded(guest, identity)) == 1
    assert publication.generation != before
    kept.clear()
    store.clear()
    assert is_given_up(publication)
    assert loaded(guest, identity) is None


def test_it_is_published_again_by_readers_that_would_cut_it_otherwise(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """And hold its tensors in another order."""
    targets = [dict(reversed(weights(0).items())), weights(0)]
    with open_loader(chunk_bytes=1 << 10) as first:
        first.publish(weights(), identity)
        readers = [open_loader(lease_s=2, chunk_bytes=1 << (14 + number)) for number in range(len(targets))]
        for reader, target in zip(readers, targets, strict=True):
            reader.load(target, identity)
    store.clear()
    assert wait_until(lambda: loaded(guest, identity)) == 1
    held = [reader.publication(identity) for reader in readers]
    assert wait_until(lambda: [each.state for each in held] == ["live"] * 2)
    assert len({each.generation for each in held}) == 1
    targets[0]["a"][7] = 2
    store.clear()
    assert wait_until(lambda: held[0].origin is None), "it has other bytes now"
    assert wait_until(lambda: held[1].state == "live")
    assert held[0].state == "lost"


def test_other_bytes_are_not_published_in_the_place_of_those_that_were_lost(
    open_loader: Open,
    guest: fl.FastLoader,
    store: MemoryStore,
    identity: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = weights()
    publication = open_loader(lease_s=2).publish(tensors, identity)
    tensors["b"][7] = 9
    store.clear()
    assert is_given_up(publication)
    assert "is not published again: publish: the tensors are no longer what was published" in caplog.text
    assert publication.state == "lost"
    assert loaded(guest, identity) is None
    assert not keys_with(store, "chunk")


def test_tensors_that_are_gone_are_not_published_again(
    open_loader: Open, store: MemoryStore, identity: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    publication = open_loader(lease_s=2).publish(weights(), identity)
    store.clear()
    assert is_given_up(publication)
    assert "is not published again: its tensors are gone" in caplog.text


def test_what_was_evicted_is_not_published_again(
    open_loader: Open,
    guest: fl.FastLoader,
    store: MemoryStore,
    identity: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = weights()
    publication = open_loader(lease_s=2).publish(tensors, identity)
    catalogue, who = Catalogue(store, guest.config), Identity.of(identity, op="test")
    evict(catalogue, look(catalogue, who.digest, Deadline(5, "test"), op="test"), Deadline(5, "test"))
    assert is_given_up(publication)
    assert "is not published again: it was evicted" in caplog.text
    assert loaded(guest, identity) is None


def test_what_others_have_published_meanwhile_stays(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    tensors = weights()
    publication = open_loader(lease_s=2).publish(tensors, identity)
    store.clear()
    other = weights(2)
    open_loader().publish(other, identity)
    wait_until(lambda: publication.state != "live")
    wait_until(lambda: publication.origin is None, 2)
    assert loaded(guest, identity) == 2


def test_one_that_cannot_be_reached_for_a_while_loses_nothing(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    tensors = weights()
    publication = open_loader(lease_s=2).publish(tensors, identity)
    store.set_faults(unreachable=True)
    assert wait_until(lambda: publication.state == "lost", 5)
    with pytest.raises(fl.UnavailableError):
        loaded(guest, identity)
    store.set_faults()
    assert wait_until(lambda: publication.state == "live", 5)
    assert loaded(guest, identity) == 1


def test_why_a_lease_is_not_renewed_is_said_once(
    open_loader: Open,
    guest: fl.FastLoader,
    store: MemoryStore,
    identity: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tensors = weights()
    loader = open_loader(lease_s=5)  # longer than the fault, whatever the machine does meanwhile
    publication = loader.publish(tensors, identity)
    assert loader.lease_trouble() == {}
    store.set_faults(unknown=keys_with(store, "chunk"))
    assert wait_until(lambda: "was not renewed, trying again: expire: nobody knows of" in caplog.text)
    ((generation, why),) = loader.lease_trouble().items()
    assert generation == publication.generation
    assert "expire: nobody knows of" in why
    time.sleep(2.0)
    store.set_faults()
    assert wait_until(lambda: "is live again" in caplog.text)
    assert loader.lease_trouble() == {}
    assert caplog.text.count("was not renewed") == 1
    assert publication.trouble == ""
    assert loaded(guest, identity) == 1


def test_closing_while_it_cannot_be_reached_is_bounded(
    open_loader: Open, store: MemoryStore, identity: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    loader = open_loader()
    publication = loader.publish(weights(), identity)
    store.set_faults(unreachable=True)
    started = time.monotonic()
    loader.close()
    assert time.monotonic() - started < 5
    assert "the publication ends with its lease" in caplog.text
    assert publication.state == "left"


# -- a local worker ---------------------------------------------------------------------------------------------------


class Local:
    """A local worker that ends when the test says so; another one takes its place."""

    def __init__(self, **_: Any) -> None:
        self.number = 1
        self.is_lost = False
        self.was_stopped = False
        self.left = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.number}"

    @property
    def process(self) -> tuple[int, int]:
        return (self.number, 0)

    def start(self) -> Local:
        return self

    def rejoin(self, timeout_s: float, *, may_launch: bool) -> bool:
        if may_launch:
            self.number += 1
            self.is_lost = False
        return may_launch

    def stop(self) -> None:
        self.left = True


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Local:
    made = Local()
    monkeypatch.setattr(store_link, "LocalWorker", lambda **_: made)
    return made


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> dict[str, MemoryStore]:
    """By the address of their worker."""
    made: dict[str, MemoryStore] = {}

    def connect(connection: _core.Connection) -> MemoryStore:
        address = repr(connection).removeprefix("<Connection ").removesuffix(">")
        return made.setdefault(address, MemoryStore())

    monkeypatch.setattr(_core, "connect_host_store", connect)
    monkeypatch.delenv("DS_WORKER_ADDR", raising=False)
    return made


def test_another_local_worker_gets_what_the_one_before_had(
    local: Local, stores: dict[str, MemoryStore], identity: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    tensors, claimed = weights(), {**identity, "claimed": "yes"}
    key = Identity.of(claimed, op="test").claim_key
    with fl.FastLoader(fl.Config(transport="host")) as loader:
        publication = loader.publish(tensors, identity)
        with pytest.raises(fl.NotPublishedError):
            loader.wait_for_publisher(claimed, timeout_s=1)
        (first,) = stores.values()
        assert loader.worker == "127.0.0.1:1"
        local.is_lost = True
        assert publication.state == "lost", "at once, whatever the lease"
        assert wait_until(lambda: publication.state == "live")
        assert loader.worker == "127.0.0.1:2"
        assert "the local worker 127.0.0.1:1 has gone: connected to 127.0.0.1:2" in caplog.text
        assert wait_until(lambda: not first.exist([key], deadline_s=1)[0]), "others may read the disk now"
        assert loaded(loader, identity) == 1
    assert local.left
    assert keys_with(stores["127.0.0.1:2"], "chunk") == []


def test_one_that_was_stopped_on_purpose_is_followed_by_who_asks_for_another(
    local: Local, stores: dict[str, MemoryStore], identity: dict[str, str]
) -> None:
    tensors = weights()
    with fl.FastLoader(fl.Config(transport="host")) as loader:
        publication = loader.publish(tensors, identity)
        local.is_lost = local.was_stopped = True
        time.sleep(1.2)
        assert (loader.worker, publication.state) == ("127.0.0.1:1", "lost")
        assert not loader.is_published(identity), "who asks for one gets one"
        assert loader.worker == "127.0.0.1:2"
        assert wait_until(lambda: publication.state == "live")


def test_another_that_watches_the_same_worker_changes_nothing(
    local: Local, stores: dict[str, MemoryStore], identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rejoin(timeout_s: float, *, may_launch: bool) -> bool:
        local.is_lost = False
        return True

    monkeypatch.setattr(local, "rejoin", rejoin)
    tensors = weights()
    with fl.FastLoader(fl.Config(transport="host")) as loader:
        publication = loader.publish(tensors, identity)
        local.is_lost = True
        assert wait_until(lambda: not local.is_lost)
        assert publication.state == "live"
        assert len(stores) == 1


def test_a_loader_that_cannot_connect_leaves_its_local_worker(
    local: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(connection: _core.Connection) -> MemoryStore:
        raise fl.UnavailableError("nobody there", op="connect")

    monkeypatch.delenv("DS_WORKER_ADDR", raising=False)
    monkeypatch.setattr(_core, "connect_host_store", refuse)
    with pytest.raises(fl.UnavailableError, match="nobody there"):
        fl.FastLoader(fl.Config(transport="host"))
    assert local.left
