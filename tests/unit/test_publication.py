"""What a process keeps published."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

import yr_fastload_native as fl
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until
from .keys import keys_with

Open = Callable[..., fl.FastLoader]
WEIGHTS = {"a": np.arange(5000, dtype=np.uint8), "b": np.ones(33, np.float32), "none": np.ones((0, 2))}


def test_it_says_what_it_is(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    with loader.publish(WEIGHTS, identity, files={"f": "0" * 64}) as publication:
        assert (publication.bytes, publication.tensors, publication.chunks) == (5132, 3, 1)
        assert (publication.identity, publication.files, publication.failure) == (identity, {"f": "0" * 64}, "")
        assert (publication.joined, publication.by_reference, publication.state) == (False, False, "live")
        assert publication.seconds > 0
        assert publication.lease_age_s < 10
        assert publication.wait_settled(0)
        assert publication.changed() == []
        assert publication.kept_beside(set()) == 0
        assert repr(publication) == f"<Publication {publication.generation} of {identity!r}: live, 5132 bytes>"
    assert publication.state == "left"


def test_it_is_superseded_by_other_weights(open_loader: Open, store: MemoryStore, identity: dict[str, str]) -> None:
    first = open_loader(lease_s=2).publish(WEIGHTS, identity)
    second = open_loader().publish({**WEIGHTS, "b": np.zeros(33, np.float32)}, identity)
    assert wait_until(lambda: first.state == "superseded")
    assert wait_until(lambda: not keys_with(store, first.generation))
    assert (second.state, second.sources()) == ("live", 1)


def test_one_that_is_dropped_is_withdrawn(open_loader: Open, store: MemoryStore, identity: dict[str, str]) -> None:
    """With the loader that kept it."""
    loader = fl.FastLoader(fl.Config(), store=store)
    loader.publish(WEIGHTS, identity)
    assert store.keys()
    del loader
    assert wait_until(lambda: store.keys() == [])


def test_a_forked_child_leaves_it_to_its_parent(
    loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    publication = loader.publish(WEIGHTS, identity)
    child = os.fork()
    if child == 0:
        publication.close()
        loader.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert publication.state == "live"
    assert loader.is_published(identity)


def test_it_is_gone_within_its_lease_where_nobody_renews_it(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    open_loader(lease_s=3600).publish(WEIGHTS, identity)
    store.advance(3599 - 60)
    assert guest.is_published(identity)
    store.advance(61)
    assert not guest.is_published(identity)
