"""What a store holds of an identity."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue, Generation, HeldKey, SupersededError, set_own
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import build_manifest
from yr_fastload_native.catalogue.manifest_codec import decode_head
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.weights.tensor_table import TensorTable

WHO = Identity.of({"model": "m"}, op="test")


def soon(seconds: float = 5) -> Deadline:
    return Deadline(seconds, "test")


class AsksTwice:
    """A store whose first answer is lost: the second is about the keys that the first call has set."""

    def __init__(self, store: MemoryStore) -> None:
        self.get = store.get
        self._set = store.set_all_if_absent

    def set_all_if_absent(self, values: dict[str, bytes], **rest: float) -> bool:
        return self._set(values, **rest) and self._set(values, **rest)


@pytest.mark.parametrize("wrapped", [lambda store: store, AsksTwice])
def test_one_of_two_sets_its_own(wrapped) -> None:
    store = wrapped(MemoryStore())
    first, second = {"a": b"same", "name": b"first"}, {"a": b"same", "name": b"second"}
    assert set_own(store, first, witness="name", ttl_s=60, deadline=soon())
    assert not set_own(store, second, witness="name", ttl_s=60, deadline=soon())
    assert store.get("name", deadline_s=5) == b"first"


@pytest.fixture
def catalogue(store: MemoryStore) -> Catalogue:
    return Catalogue(store, fl.Config(lease_s=30))


class Made:
    """A generation whose digests follow, not announced yet."""

    def __init__(self, catalogue: Catalogue, name: str = "0" * 24, files: dict[str, str] | None = None) -> None:
        self.tensors = {"w": np.arange(1000, dtype=np.uint8)}
        self.table = TensorTable(self.tensors, op="test", writable=False, max_tensors=9)
        plan = _core.make_plan(self.table.moving, chunk_bytes=1024, max_blobs=4)
        manifest = build_manifest(WHO, name, self.table, plan, None, (1024, 4))
        self.generation, self.body = catalogue.describe(WHO, manifest, ["d2d"], files)


@pytest.fixture
def made(catalogue: Catalogue) -> Made:
    return Made(catalogue)


def read(catalogue: Catalogue, made: Made) -> Generation:
    head, names = catalogue.head(WHO, soon(), op="test")
    return catalogue.read(WHO, head, names, soon(), op="test", mine=made.table)[0]


def test_what_is_announced_is_read(catalogue: Catalogue, made: Made) -> None:
    with pytest.raises(fl.NotPublishedError):
        catalogue.head(WHO, soon(), op="test")
    assert catalogue.announce(made.generation, made.body, soon(), replace=False)
    found = read(catalogue, made)
    assert (found.head, found.transports, found.digests, found.files) == (made.generation.head, ("d2d",), None, None)
    assert catalogue.is_current(found, soon())
    assert catalogue.usage.most("manifest_bytes") == len(made.body)


def test_one_generation_is_current(catalogue: Catalogue, made: Made) -> None:
    other = Made(catalogue, "1" * 24)
    assert catalogue.announce(made.generation, made.body, soon(), replace=False)
    assert not catalogue.announce(other.generation, other.body, soon(), replace=False)
    assert catalogue.is_current(made.generation, soon())
    assert catalogue.announce(other.generation, other.body, soon(), replace=True)
    assert not catalogue.is_current(made.generation, soon())
    assert read(catalogue, other).head == other.generation.head
    with pytest.raises(SupersededError):
        catalogue.wait_for_digests(made.generation, soon(), op="test")


def test_a_head_without_a_manifest_is_of_a_generation_that_goes(
    catalogue: Catalogue, store: MemoryStore, made: Made
) -> None:
    catalogue.announce(made.generation, made.body, soon(), replace=False)
    store.erase([WHO.manifest_key(made.generation.manifest.generation)], deadline_s=1)
    with pytest.raises(SupersededError):
        read(catalogue, made)


def test_digests_that_follow_are_waited_for(catalogue: Catalogue, made: Made) -> None:
    catalogue.announce(made.generation, made.body, soon(), replace=False)
    digests = memoryview(np.array([7], np.uint64))
    later = threading.Timer(
        0.1, lambda: catalogue.store_digests(made.generation, digests, None, ttl_s=60, deadline=soon())
    )
    later.start()
    found = catalogue.wait_for_digests(read(catalogue, made), soon(), op="test")
    later.join()
    assert list(found.chunks) == [7]
    assert found.sha256 is None
    taken = read(catalogue, made).digests
    assert taken is not None
    assert list(taken.chunks) == [7]


def test_digests_that_do_not_come_are_waited_for_no_longer_than_wanted(catalogue: Catalogue, made: Made) -> None:
    catalogue.announce(made.generation, made.body, soon(), replace=False)
    with pytest.raises(fl.TransferTimeoutError):
        catalogue.wait_for_digests(made.generation, soon(0.1), op="test")


def test_a_lease_keeps_all_of_it_and_takes_all_of_it_along(
    catalogue: Catalogue, store: MemoryStore, made: Made
) -> None:
    told = Made(catalogue, files={"f": "0" * 64})
    catalogue.announce(told.generation, told.body, soon(), held=HeldKey("place", b"me"), replace=False)
    store.set("data", b"bytes", ttl_s=1, deadline_s=1)
    lease = catalogue.take_lease(told.generation, ["data"], soon(), held=HeldKey("place", b"me"))
    store.advance(29)
    name = told.generation.manifest.generation
    kept = {WHO.head_key, WHO.manifest_key(name), WHO.digests_key(name), WHO.files_key(name), "place", "data"}
    assert kept <= set(store.keys())
    assert catalogue.files(WHO, name, soon(), op="test") == {"f": "0" * 64}
    store.advance(2)  # without a renewal the head has gone, and what it named stays for those who have seen it
    assert store.exist([WHO.head_key], deadline_s=1) == [False]
    assert {WHO.manifest_key(name), "data"} <= set(store.keys())
    lease.leave(deadline_s=1)
    assert store.keys() == []


def test_who_announced_it_is_its_first_source(catalogue: Catalogue, store: MemoryStore, made: Made) -> None:
    catalogue.announce(made.generation, made.body, soon(), replace=False)
    lease = catalogue.take_lease(made.generation, [], soon(), announced=True)
    assert lease.sources(deadline_s=1) == 1
    second = catalogue.take_lease(made.generation, [], soon())
    assert lease.sources(deadline_s=1) == 2
    second.leave(deadline_s=1)
    lease.leave(deadline_s=1)
    assert store.keys() == []


def test_what_is_told_of_files_later_does_not_replace_what_is_known(catalogue: Catalogue) -> None:
    told = Made(catalogue, files={"a": "0" * 64})
    catalogue.announce(told.generation, told.body, soon(), replace=False)
    name = told.generation.manifest.generation
    catalogue.tell_files(WHO, name, {"a": "1" * 64, "b": "2" * 64}, soon())
    assert catalogue.files(WHO, name, soon(), op="test") == {"a": "0" * 64, "b": "2" * 64}


def test_data_that_cannot_be_erased_is_left_to_its_ttl(
    catalogue: Catalogue, store: MemoryStore, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue.announce(made.generation, made.body, soon(), replace=False)
    name = made.generation.manifest.generation
    store.set_faults(unreachable=True)
    catalogue.erase_data(WHO, name, ["data"], soon())
    assert "it ends with its TTL" in caplog.text
    store.set_faults()
    catalogue.erase_data(WHO, name, ["data"], soon())
    assert not store.exist([WHO.manifest_key(name)], deadline_s=1)[0]


def test_a_head_is_what_was_described(made: Made) -> None:
    assert decode_head(made.generation.head, op="test").generation == made.generation.manifest.generation
