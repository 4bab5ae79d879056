"""The store of tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.testing import MemoryStore

from ..store_conformance import Chunks, StoreConformance, map_chunks


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def pass_time(self, store: MemoryStore) -> Callable[[float], None]:
        return store.advance


def test_it_forgets_as_a_worker_that_was_started_anew(store: MemoryStore) -> None:
    store.set("key", b"value", ttl_s=60, deadline_s=1)
    chunks = Chunks(store, "chunk-", [1 << 20])
    (mapped,) = map_chunks(store, "chunk-", [0])
    store.clear()
    assert store.keys() == []
    assert store.get("key", deadline_s=1) is None
    assert mapped is not None
    assert bytes(mapped) == chunks.source.tobytes()


def test_one_that_cannot_be_reached_answers_no_call(store: MemoryStore) -> None:
    store.set("key", b"value", ttl_s=60, deadline_s=1)
    store.set_faults(unreachable=True)
    for call in (
        lambda: store.set("key", b"other", ttl_s=60, deadline_s=1),
        lambda: store.set_if_absent("key", b"other", ttl_s=60, deadline_s=1),
        lambda: store.get("key", deadline_s=1),
        lambda: store.get_many(["key"], deadline_s=1),
        lambda: store.exist(["key"], deadline_s=1),
        lambda: store.expire(["key"], ttl_s=60, deadline_s=1),
        lambda: store.erase(["key"], deadline_s=1),
        lambda: map_chunks(store, "chunk-", [0]),
        lambda: Chunks(store, "chunk-", [1 << 20]),
    ):
        with pytest.raises(fl.UnavailableError, match="does not answer"):
            call()
    store.set_faults()
    assert store.get("key", deadline_s=1) == b"value"


def test_what_readers_hold_takes_room(store: MemoryStore) -> None:
    """As in a worker's pool: erased memory is free once nobody maps it."""
    store.set_faults(capacity_bytes=3 << 20)
    Chunks(store, "first-", [1 << 20] * 2)
    held = map_chunks(store, "first-", [0, 1])
    store.erase(_core.chunk_keys("first-", 2), deadline_s=1)
    with pytest.raises(fl.ResourceExhaustedError, match="full"):
        Chunks(store, "second-", [1 << 20] * 2)
    assert store.keys() == []
    del held
    assert Chunks(store, "second-", [1 << 20] * 2).load() == []


def test_what_expired_takes_no_room(store: MemoryStore) -> None:
    store.set_faults(capacity_bytes=1 << 20)
    Chunks(store, "first-", [1 << 20])
    store.advance(61)
    assert Chunks(store, "second-", [1 << 20]).load() == []
