"""What is published is found, looked at and evicted."""

from __future__ import annotations

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.catalogue import listing
from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.eviction import evict
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until
from .keys import keys_with

WEIGHTS = {"a": np.arange(1000, dtype=np.uint8), "b": np.ones((20, 3), np.float32)}


def soon() -> Deadline:
    return Deadline(5, "test")


@pytest.fixture
def catalogue(store: MemoryStore) -> Catalogue:
    return Catalogue(store, fl.Config())


@pytest.fixture
def published(loader: fl.FastLoader, catalogue: Catalogue) -> list[Identity]:
    """Three identities, listed."""
    each = [Identity.of({"model": "m", "number": number}, op="test") for number in range(3)]
    for who in each:
        loader.publish(WEIGHTS, who.fields)
    assert wait_until(lambda: len(listing.digests(catalogue, soon())) == 3)
    return each


def test_each_is_found(catalogue: Catalogue, published: list[Identity], loader: fl.FastLoader) -> None:
    assert listing.digests(catalogue, soon()) == sorted(who.digest for who in published)
    found = listing.identities(catalogue, soon(), op="test")
    assert sorted(who.digest for who in found) == sorted(who.digest for who in published)
    assert sorted(fields["number"] for fields in loader.identities()) == [0, 1, 2]


def test_what_is_looked_at(catalogue: Catalogue, published: list[Identity], other_loader: fl.FastLoader) -> None:
    other_loader.publish(WEIGHTS, published[1].fields)
    found = listing.look(catalogue, published[1].digest, soon(), op="test")
    assert found.who.fields == published[1].fields
    assert (found.bytes, found.transports, len(found.sources)) == (1240, ("host",), 2)
    assert 0 <= found.age_s < 60
    with pytest.raises(fl.NotPublishedError, match=f"nothing is published for identity {'0' * 12}"):
        listing.look(catalogue, "0" * 64, soon(), op="test")


def test_a_beginning_names_one(catalogue: Catalogue, published: list[Identity]) -> None:
    digest = published[0].digest
    assert listing.find(catalogue, digest[:16].upper(), soon(), op="test") == digest
    with pytest.raises(fl.InvalidArgumentError, match="3 identities begin with ''"):
        listing.find(catalogue, "", soon(), op="test")
    with pytest.raises(fl.NotPublishedError, match="begins with 'xyz'"):
        listing.find(catalogue, "xyz", soon(), op="test")


def test_what_is_evicted_is_gone(
    catalogue: Catalogue, published: list[Identity], store: MemoryStore, loader: fl.FastLoader
) -> None:
    who = published[2]
    listed = listing.look(catalogue, who.digest, soon(), op="test")
    evict(catalogue, listed, soon())
    kept = keys_with(store, who.digest)
    name = listed.manifest.generation
    assert sorted(kept) == sorted([who.evicted_key(name), who.slot_keys(name)[0]]), "its source has not looked yet"
    assert not loader.is_published(who.fields)
    assert loader.is_published(published[0].fields)


def test_evicting_what_was_replaced_meanwhile_leaves_the_new_one(
    catalogue: Catalogue, published: list[Identity], loader: fl.FastLoader
) -> None:
    who = published[0]
    listed = listing.look(catalogue, who.digest, soon(), op="test")
    other = loader.publish({**WEIGHTS, "b": np.zeros((20, 3), np.float32)}, who.fields)
    evict(catalogue, listed, soon())
    assert listing.look(catalogue, who.digest, soon(), op="test").manifest.generation == other.generation


def test_what_is_damaged_hides_no_other(
    catalogue: Catalogue, published: list[Identity], store: MemoryStore, loader: fl.FastLoader
) -> None:
    head, manifest, _ = published
    store.set(head.head_key, b"no head", ttl_s=60, deadline_s=1)
    publication = loader.publication(manifest.fields)
    assert publication is not None
    store.set(manifest.manifest_key(publication.generation), b"{}", ttl_s=60, deadline_s=1)
    assert [who.fields["number"] for who in listing.identities(catalogue, soon(), op="test")] == [2]
    for who in (head, manifest):
        with pytest.raises(fl.IntegrityError):
            listing.look(catalogue, who.digest, soon(), op="test")


def test_nothing_is_listed_of_nothing(catalogue: Catalogue, store: MemoryStore) -> None:
    assert listing.digests(catalogue, soon()) == []
    assert listing.identities(catalogue, soon(), op="test") == []
    store.set("yrfl1-entry-5", b"no digest", ttl_s=60, deadline_s=1)
    assert listing.digests(catalogue, soon()) == []
