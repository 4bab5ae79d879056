"""What a publication says of the files that its weights were read from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until


def weights(value: int = 0) -> dict[str, np.ndarray]:
    return {"a": np.full(4096, value, np.uint8)}


def sum_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_weights_of_other_files_are_refused(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    files = {"a.safetensors": sum_of("a"), "b.safetensors": sum_of("b")}
    loader.publish(weights(1), identity, files=files)
    target = weights()
    with pytest.raises(fl.LayoutMismatchError, match=r"1 of 2 files are not those.*'b\.safetensors'"):
        other_loader.load(target, identity, files={**files, "b.safetensors": sum_of("other")})
    assert not target["a"].any()
    for known in (files, {}, {"a.safetensors": sum_of("a")}, {"c.safetensors": sum_of("c")}):
        other_loader.load(target, identity, files=known)
        assert target["a"].all()


def test_what_was_not_known_is_told_later(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    """And what was, stays."""
    publication = loader.publish(weights(1), identity, files={"a.safetensors": sum_of("a")})
    loader.tell_files(publication, {"a.safetensors": sum_of("other"), "b.safetensors": sum_of("b")})
    told = {"a.safetensors": sum_of("a"), "b.safetensors": sum_of("b")}
    assert other_loader.files(identity) == told
    assert other_loader.files(identity, publication.generation) == told
    publication.close()
    assert other_loader.files(identity) is None
    loader.tell_files(publication, {"c.safetensors": sum_of("c")})  # nobody would read it
    assert other_loader.files(identity, publication.generation) is None


def test_it_lives_as_long_as_the_weights(
    open_loader: Callable[..., fl.FastLoader], store: MemoryStore, identity: dict[str, str]
) -> None:
    """Renewed by readers too, once the publisher has gone."""
    first, second = open_loader(), open_loader(lease_s=2)
    generation = first.publish(weights(1), identity, files={"a": sum_of("a")}).generation
    second.load(weights(), identity)
    first.close()
    held, key = second.publication(identity), Identity.of(identity, op="test").files_key(generation)
    assert held is not None
    store.expire([key], ttl_s=30, deadline_s=5)
    for _ in range(2):  # the first renewal may have begun before
        since = time.monotonic()
        assert wait_until(lambda since=since: held.lease_age_s < time.monotonic() - since)
    store.advance(31)
    assert second.files(identity, generation) == {"a": sum_of("a")}
    second.close()
    assert store.get(key, deadline_s=5) is None


def test_weights_that_say_nothing_of_files(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    loader.tell_files(publication, {"a": sum_of("a")})
    assert other_loader.files(identity) is None
    other_loader.load(weights(), identity, files={"a": sum_of("a")})


@pytest.mark.parametrize("files", [{"a": "x"}, {"": sum_of("a")}, {1: sum_of("a")}, "text"])
def test_what_is_no_sum(loader: fl.FastLoader, identity: dict[str, str], files: object) -> None:
    with pytest.raises(fl.InvalidArgumentError, match="SHA-256"):
        loader.publish(weights(1), identity, files=files)


@pytest.mark.parametrize("body", [b"{", b'{"format":1,"generation":"00000000","files":{}}', b"[]"])
def test_a_damaged_list(
    loader: fl.FastLoader, other_loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str], body: bytes
) -> None:
    publication = loader.publish(weights(1), identity, files={})
    key = Identity.of(identity, op="test").files_key(publication.generation)
    store.set(key, body, ttl_s=60, deadline_s=5)
    with pytest.raises(fl.IntegrityError):
        other_loader.load(weights(), identity)
