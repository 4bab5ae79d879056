"""What others do between two steps of a load or a publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore

from .keys import keys_with

Open = Callable[..., fl.FastLoader]


class Interrupted(MemoryStore):
    """A store of which one call is preceded, or followed, by what somebody else does."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def get_many(self, keys: Sequence[str], *, deadline_s: float) -> list[bytes | None]:
        return self._interrupted("get_many", lambda: MemoryStore.get_many(self, keys, deadline_s=deadline_s))

    def set_all_if_absent(self, values: dict[str, bytes], *, ttl_s: int, deadline_s: float) -> bool:
        return self._interrupted(
            "set_all_if_absent",
            lambda: MemoryStore.set_all_if_absent(self, values, ttl_s=ttl_s, deadline_s=deadline_s),
        )

    def _interrupted(self, name: str, call: Callable[[], Any]) -> Any:
        self.before.pop(name, lambda: None)()
        answer = call()
        self.after.pop(name, lambda: None)()
        return answer


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


def weights(value: int) -> dict[str, np.ndarray]:
    return {"a": np.full(1 << 12, value, np.uint8), "b": np.full(33, value, np.uint8)}


def loaded(loader: fl.FastLoader, identity: dict[str, str]) -> int:
    target = weights(0)
    loader.load(target, identity)
    (value,) = {int(each) for tensor in target.values() for each in np.unique(tensor)}
    return value


def chunks(store: MemoryStore, identity: dict[str, str], publication: fl.Publication) -> list[str]:
    return _core.chunk_keys(Identity.of(identity, op="test").chunk_prefix(publication.generation), publication.chunks)


# -- a load -----------------------------------------------------------------------------------------------------------


def test_a_manifest_that_went_after_its_head_was_read(
    loader: fl.FastLoader, guest: fl.FastLoader, store: Interrupted, identity: dict[str, str]
) -> None:
    loader.publish(weights(1), identity)
    store.before["get_many"] = lambda: loader.publish(weights(2), identity)
    assert loaded(guest, identity) == 2


def test_a_generation_that_was_replaced_while_it_was_read(
    loader: fl.FastLoader,
    other_loader: fl.FastLoader,
    guest: fl.FastLoader,
    store: Interrupted,
    identity: dict[str, str],
) -> None:
    old = loader.publish(weights(1), identity)
    store.set_faults(missing=chunks(store, identity, old))
    store.after["get_many"] = lambda: other_loader.publish(weights(2), identity)
    assert loaded(guest, identity) == 2


def test_one_that_was_withdrawn_while_it_was_read(
    loader: fl.FastLoader, guest: fl.FastLoader, store: Interrupted, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    store.after["get_many"] = publication.close
    with pytest.raises(fl.NotPublishedError):
        loaded(guest, identity)


def test_a_reader_that_comes_too_late_to_be_a_source_has_its_weights(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    target = weights(0)
    other_loader.load(target, identity, progress=lambda done, total: publication.close() if done == total else None)
    assert (target["a"] == 1).all()
    assert other_loader.publication(identity) is None


# -- a publish --------------------------------------------------------------------------------------------------------


def test_equal_weights_that_were_published_meanwhile_are_joined(
    loader: fl.FastLoader, other_loader: fl.FastLoader, store: Interrupted, identity: dict[str, str]
) -> None:
    other: list[fl.Publication] = []
    store.before["set_all_if_absent"] = lambda: other.append(other_loader.publish(weights(1), identity))
    mine = loader.publish(weights(1), identity)
    assert (mine.joined, mine.generation) == (True, other[0].generation)
    assert mine.sources() == 2
    assert keys_with(store, "chunk") == chunks(store, identity, mine), "none of its own are left"


def test_of_other_weights_that_were_published_meanwhile_the_later_ones_count(
    loader: fl.FastLoader,
    other_loader: fl.FastLoader,
    guest: fl.FastLoader,
    store: Interrupted,
    identity: dict[str, str],
) -> None:
    store.before["set_all_if_absent"] = lambda: other_loader.publish(weights(2), identity)
    mine = loader.publish(weights(1), identity)
    assert not mine.joined
    assert loaded(guest, identity) == 1


def test_what_is_withdrawn_before_it_can_be_joined_is_published_anew(
    loader: fl.FastLoader,
    other_loader: fl.FastLoader,
    guest: fl.FastLoader,
    store: Interrupted,
    identity: dict[str, str],
) -> None:
    before = other_loader.publish(weights(1), identity)
    store.after["get_many"] = before.close
    mine = loader.publish(weights(1), identity)
    assert not mine.joined
    assert mine.generation != before.generation
    assert loaded(guest, identity) == 1


@pytest.mark.parametrize(
    ("faults", "error"),
    [({"capacity_bytes": 1 << 12}, fl.ResourceExhaustedError), ({"unreachable": True}, fl.UnavailableError)],
)
def test_a_publish_that_fails_leaves_nothing(
    open_loader: Open, store: Interrupted, identity: dict[str, str], faults: dict[str, Any], error: type[Exception]
) -> None:
    store.set_faults(**faults)
    loader = open_loader(chunk_bytes=1 << 10)
    with pytest.raises(error):
        loader.publish(weights(1), identity)
    store.set_faults()
    assert store.keys() == []
    assert loader.publication(identity) is None
    assert loader.publish(weights(1), identity).state == "live"
