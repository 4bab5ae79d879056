"""A claim is somebody's, or it lapses."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import cast

import pytest
from tests.waiting import wait_until

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Catalogue
from yr_fastload_native.config import Config
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.election import Claim, await_publisher
from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.identity import Identity

WHO = Identity.of({"model": "m"}, op="test")


class Store:
    """Keys and values, of which the head cannot be read."""

    def __init__(self, failure: BaseException) -> None:
        self.values: dict[str, bytes] = {}
        self.renewals = 0
        self._failure = failure

    def set_all_if_absent(self, values: Mapping[str, bytes], **_: object) -> bool:
        self.values.update(values)
        return True

    def get_many(self, keys: Sequence[str], **_: object) -> list[bytes | None]:
        return [self.values.get(key) for key in keys]

    def get(self, key: str, **_: object) -> bytes | None:
        if key == WHO.head_key:
            raise self._failure
        return self.values.get(key)

    def expire(self, keys: Sequence[str], **_: object) -> None:
        self.renewals += 1

    def erase(self, keys: Sequence[str], **_: object) -> None:
        for key in keys:
            del self.values[key]


def catalogue(store: Store) -> Catalogue:
    return Catalogue(cast(_core.ObjectStore, store), Config(lease_s=2))


@pytest.mark.parametrize("failure", [UnavailableError("gone", op="get"), KeyboardInterrupt()])
def test_a_wait_that_fails_after_the_claim_was_taken_gives_it_back(failure: BaseException) -> None:
    store = Store(failure)
    with pytest.raises(type(failure)):
        await_publisher(catalogue(store), WHO, 1, op="test")
    assert store.values == {}


def test_a_claim_that_nobody_has_any_more_is_not_renewed() -> None:
    store = Store(KeyboardInterrupt())
    claim = Claim.take(catalogue(store), WHO, Deadline(1, "test"))
    assert claim is not None
    renewing = claim._renewing
    del claim
    gc.collect()
    wait_until(lambda: not renewing.is_alive(), 5)
    assert store.renewals == 0
