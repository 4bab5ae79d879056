"""A claim is somebody's, or it lapses."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import pytest

from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.election import Claim, await_publisher
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.settings import Config
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until

WHO = Identity.of({"model": "m"}, op="test")


def take(catalogue: Catalogue) -> Claim | None:
    return Claim.take(catalogue, WHO, Deadline(1, "test"))


class Store(MemoryStore):
    """A store of which the head cannot be read alone."""

    failure: BaseException | None = None

    def get(self, key: str, *, deadline_s: float) -> bytes | None:
        if key == WHO.head_key and self.failure is not None:
            raise self.failure
        return super().get(key, deadline_s=deadline_s)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def catalogue(store: Store) -> Catalogue:
    return Catalogue(store, Config(lease_s=2))


@pytest.mark.parametrize("failure", [UnavailableError("gone", op="get"), KeyboardInterrupt()])
def test_a_wait_that_fails_after_the_claim_was_taken_gives_it_back(
    store: Store, catalogue: Catalogue, failure: BaseException
) -> None:
    store.failure = failure
    with pytest.raises(type(failure)):
        await_publisher(catalogue, WHO, 1, op="test")
    store.failure = None
    assert store.keys() == []


def test_a_claim_is_kept_until_it_is_released(store: Store, catalogue: Catalogue) -> None:
    claim = take(catalogue)
    assert claim is not None
    time.sleep(2.5)  # longer than it lives by itself
    assert take(catalogue) is None
    claim.release()
    claim.release()
    assert store.keys() == []
    assert take(catalogue) is not None


def test_a_claim_that_nobody_has_any_more_is_not_renewed(store: Store, catalogue: Catalogue) -> None:
    claim = take(catalogue)
    assert claim is not None
    renewing = claim._renewing
    del claim
    gc.collect()
    assert wait_until(lambda: not renewing.is_alive(), 5)
    store.advance(2)
    assert take(catalogue) is not None


def test_a_claim_that_cannot_be_given_back_ends_with_its_lease(store: Store, catalogue: Catalogue) -> None:
    claim = take(catalogue)
    assert claim is not None
    store.set_faults(unreachable=True)
    claim.release()
    store.set_faults()
    assert take(catalogue) is None
    store.advance(2)
    assert take(catalogue) is not None


def test_who_finds_a_publication_behind_a_claim_gives_that_back(store: Store, catalogue: Catalogue) -> None:
    """Published, and the claim before released, between the two looks."""

    class Late(Store):
        def get_many(self, keys: Sequence[str], *, deadline_s: float) -> list[bytes | None]:
            found = super().get_many(keys, deadline_s=deadline_s)
            self.set(WHO.head_key, b"head", ttl_s=60, deadline_s=1)
            return found

    late = Late()
    assert await_publisher(Catalogue(late, catalogue.config), WHO, 1, op="test") is None
    assert late.keys() == [WHO.head_key]
