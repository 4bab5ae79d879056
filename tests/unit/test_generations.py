"""Who publishes, who keeps it published, and what happens when weights change."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from tests.two_arrays import published, weights

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until


def test_what_is_not_published_is_not_loaded(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    target = weights(7)
    with pytest.raises(fl.NotPublishedError) as caught:
        loader.load(target, identity)
    assert caught.value.retryable
    assert caught.value.op == "load"
    assert (target["a"] == 7).all()


def test_same_bytes_again_join(loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    first = loader.publish(weights(1), identity)
    second = other_loader.publish(weights(1), identity)
    assert not first.joined
    assert second.joined
    assert second.generation == first.generation
    assert first.sources() == 2
    first.close()
    assert second.state == "live"
    assert published(other_loader, identity)


def test_changed_bytes_make_a_new_generation(
    open_loader: Callable[..., fl.FastLoader],
    other_loader: fl.FastLoader,
    guest: fl.FastLoader,
    identity: dict[str, str],
) -> None:
    first = open_loader(lease_s=2).publish(weights(1), identity)
    second = other_loader.publish(weights(2), identity)
    assert second.generation != first.generation
    target = weights(0)
    assert guest.load(target, identity).generation == second.generation
    assert (target["a"] == 2).all()
    assert (target["b"] == 2).all()
    assert wait_until(lambda: first.state == "superseded"), "the first source learns that it is superseded"


def test_same_process_publishes_anew(loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    first = loader.publish(weights(1), identity)
    second = loader.publish(weights(2), identity)
    assert (first.state, second.state) == ("left", "live")
    target = weights(0)
    guest.load(target, identity)
    assert (target["a"] == 2).all()


def test_closing_the_last_source_withdraws(
    loader: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    who = Identity.of(identity, op="test")
    keys = [who.head_key, who.manifest_key(publication.generation), who.chunk_prefix(publication.generation) + "0"]
    assert store.exist(keys, deadline_s=5) == [True] * 3
    assert published(guest, identity)
    publication.close()
    publication.close()
    assert publication.state == "left"
    assert store.exist(keys, deadline_s=5) == [False] * 3
    assert not published(guest, identity)


def test_a_reader_becomes_a_source(
    loader: fl.FastLoader, other_loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    other_loader.load(weights(0), identity)
    assert publication.sources() == 2
    publication.close()
    assert published(guest, identity)
    other_loader.close()
    assert not published(guest, identity)


def test_two_processes_publish_at_once(
    open_loader: Callable[..., fl.FastLoader], guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    """Equal weights: one generation, two sources, whoever comes first."""
    for attempt in range(3):
        who = {**identity, "attempt": str(attempt)}
        loaders = [open_loader() for _ in range(3)]
        barrier = threading.Barrier(len(loaders))
        publications: list[fl.Publication] = []

        def publish(
            loader: fl.FastLoader,
            barrier: threading.Barrier = barrier,
            who: dict[str, str] = who,
            publications: list[fl.Publication] = publications,
        ) -> None:
            barrier.wait()
            publications.append(loader.publish(weights(5), who))

        threads = [threading.Thread(target=publish, args=(loader,)) for loader in loaders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({publication.generation for publication in publications}) == 1
        assert sum(not publication.joined for publication in publications) == 1
        assert publications[0].sources() == len(loaders)
        target = weights(0)
        guest.load(target, who)
        assert (target["a"] == 5).all()
        for loader in loaders:
            loader.close()
        assert not published(guest, who)
