"""Wrong layouts, damaged or hostile objects: typed errors, nothing written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.catalogue.fields import FORMAT
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import Head
from yr_fastload_native.testing import MemoryStore

from .keys import wait_renewed


def weights(value: int = 1) -> dict[str, np.ndarray]:
    return {"a.weight": np.full((64, 32), value, np.float32), "a.bias": np.full(64, value, np.float32)}


def untouched(target: dict[str, Any]) -> bool:
    return all((np.asarray(tensor) == 9).all() for tensor in target.values())


def transposed() -> np.ndarray:
    return np.full((32, 64), 9, np.float32).T


LAYOUTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "a tensor more": (lambda t: t.update(extra=np.full(3, 9, np.float32)), "extra", "not published"),
    "a tensor less": (lambda t: t.pop("a.bias"), "a.bias", "not wanted"),
    "another name": (lambda t: t.update({"a.b": t.pop("a.bias")}), "a.b", "not published"),
    "another dtype": (lambda t: t.update({"a.bias": np.full(64, 9, np.int32)}), "a.bias", "dtype"),
    "another shape": (lambda t: t.update({"a.bias": np.full((8, 8), 9, np.float32)}), "a.bias", "shape"),
    "other strides": (lambda t: t.update({"a.weight": transposed()}), "a.weight", "strides"),
    "tied": (lambda t: t.update({"a.bias": t["a.weight"][0:2].reshape(64)}), "a.bias", "alias"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_that_differ_write_nothing(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str], case: str
) -> None:
    change, name, word = LAYOUTS[case]
    loader.publish(weights(), identity)
    target: dict[str, Any] = weights(9)
    change(target)
    with pytest.raises(fl.LayoutMismatchError, match=word) as caught:
        other_loader.load(target, identity)
    assert name in caught.value.failed_keys
    assert untouched(target)


def test_tensors_that_cannot_be_loaded_into_are_named(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish(weights(), identity)
    target = weights(9)
    target["a.bias"].flags.writeable = False
    with pytest.raises(fl.InvalidArgumentError, match=r"a\.bias.*read-only"):
        loader.load(target, identity)
    with pytest.raises(fl.DeviceError, match=r"a\.bias.*meta"):
        loader.load({**weights(9), "a.bias": torch.empty(64, device="meta")}, identity)
    with pytest.raises(fl.InvalidArgumentError, match=r"x.*not dense"):
        loader.publish({"x": np.zeros((4, 4))[:, :2]}, identity)


class Stored:
    """The raw objects of a publication, to be damaged."""

    def __init__(self, store: MemoryStore, identity: dict[str, str], generation: str) -> None:
        self.store = store
        self.who = Identity.of(identity, op="test")
        self.manifest_key = self.who.manifest_key(generation)
        self.generation = generation

    def get(self, key: str) -> bytes:
        value = self.store.get(key, deadline_s=5)
        assert value is not None
        return value

    def set(self, key: str, value: bytes) -> None:
        self.store.set(key, value, ttl_s=600, deadline_s=5)

    def set_manifest(self, value: bytes, **head: Any) -> None:
        """A manifest, and a head that vouches for it: what a hostile publisher could write."""
        self.set(self.manifest_key, value)
        fields = {
            "format": FORMAT,
            "generation": self.generation,
            "manifest_bytes": len(value),
            "manifest_sha256": hashlib.sha256(value).hexdigest(),
            "transports": ["host"],
        }
        self.set(self.who.head_key, msgspec.json.encode(Head(**{**fields, **head})))


@pytest.fixture
def stored(open_loader: Callable[..., fl.FastLoader], store: MemoryStore, identity: dict[str, str]) -> Stored:
    # A source that looks at the head while it is damaged would take it for a newer generation and withdraw its own.
    publication = open_loader(lease_s=3600).publish(weights(), identity)
    made = Stored(store, identity, publication.generation)
    wait_renewed(store, made.who)
    return made


def refused(reader: fl.FastLoader, identity: dict[str, str], match: str) -> fl.FastLoadError:
    target = weights(9)
    started = time.monotonic()
    with pytest.raises((fl.IntegrityError, fl.ResourceExhaustedError), match=match) as caught:
        reader.load(target, identity)
    assert time.monotonic() - started < 10
    assert untouched(target)
    return caught.value


def test_a_truncated_manifest(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.set(stored.manifest_key, stored.get(stored.manifest_key)[:-40])
    refused(other_loader, identity, "not the one that the head names")


def test_hostile_manifests(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    good = msgspec.json.decode(stored.get(stored.manifest_key))
    chunk = good["chunks"][0]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("format 2", {"format": 2}),
        ("not valid", {"surprise": 1}),
        ("not valid", {"chunk_bytes": -64}),
        ("not valid", {"chunk_bytes": 1 << 70}),
        ("contradicts", {"chunk_bytes": 65}),
        ("contradicts", {"chunk_bytes": 64}),
        ("contradicts", {"chunks": [chunk] * 1_000_000}),
        ("contradicts", {"chunks": [["yrfl1-chunk-other", *chunk[1:]]]}),
        ("contradicts", {"chunks": [[chunk[0], chunk[1] + 1, *chunk[2:]]]}),
        ("contradicts", {"tensors": [[*good["tensors"][0][:4], (1 << 63) - 1, *good["tensors"][0][5:]]] * 1}),
        ("contradicts", {"tensors": good["tensors"] * 2}),
        ("another identity", {"identity": {"model": "other"}}),
        ("digest", {"digest": "md5"}),
    ]
    for match, change in cases:
        stored.set_manifest(msgspec.json.encode({**good, **change}))
        refused(other_loader, identity, match)
    stored.set_manifest(b'{"identity":' + b'{"a":' * 100_000)
    refused(other_loader, identity, "not valid")
    stored.set_manifest(msgspec.json.encode(good))
    other_loader.load(weights(9), identity)  # and only the damage was refused


def test_offsets_past_the_end_write_nothing(
    stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    good = msgspec.json.decode(stored.get(stored.manifest_key))
    row = good["tensors"][0]
    row[6] = 1 << 62  # offset: described, never trusted
    stored.set_manifest(msgspec.json.encode(good))
    refused(other_loader, identity, "contradicts")


def test_a_damaged_head(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.set(stored.who.head_key, b"\xff\x00 no json")
    refused(other_loader, identity, "head is not valid")


def test_a_damaged_chunk_is_named(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    key = stored.who.chunk_prefix(stored.generation) + "0"
    size = 64 * 32 * 4 + 64 * 4
    stored.set(key, b"\x07" * size)
    with pytest.raises(fl.IntegrityError, match="does not match its digest") as caught:
        other_loader.load(weights(9), identity)
    assert caught.value.failed_keys == (key,)
    assert "a.weight" in str(caught.value)
    stored.set(key, b"\x07" * (size - 1))
    error = refused(other_loader, identity, f"has {size - 1} bytes, not {size}")
    assert error.failed_keys == (key,)


def test_only_what_failed_is_fetched_again(
    open_loader: Callable[..., fl.FastLoader], store: MemoryStore, identity: dict[str, str]
) -> None:
    """One chunk of three is damaged, and repaired once the others have arrived: one is asked for again."""
    source = {name: np.full(1024, number, np.uint8) for number, name in enumerate("abc")}
    target = {name: np.full(1024, 9, np.uint8) for name in source}
    told: list[int] = []
    with open_loader(chunk_bytes=1024, lease_s=3600) as both:
        publication = both.publish(source, identity)
        stored = Stored(store, identity, publication.generation)
        key = stored.who.chunk_prefix(stored.generation) + "1"
        good = stored.get(key)
        stored.set(key, b"\x07" * len(good))

        def repair(done: int, total: int) -> None:
            told.append(done)
            if done == total:
                stored.set(key, good)

        report = both.load(target, identity, progress=repair)
    assert report.chunks == 3
    assert report.chunks_retried == 1
    assert both.stats()["chunks_retried"] == 1
    assert told[-1] == 1024, "the second pass moved one chunk"
    assert all(np.array_equal(target[name], tensor) for name, tensor in source.items())


def test_staged_loads_never_show_damaged_bytes(
    stored: Stored, open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]
) -> None:
    stored.set(stored.who.chunk_prefix(stored.generation) + "0", b"\x07" * (64 * 32 * 4 + 64 * 4))
    refused(open_loader(staging="always"), identity, "does not match its digest")


def test_a_missing_chunk_is_named(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    key = stored.who.chunk_prefix(stored.generation) + "0"
    stored.store.erase([key], deadline_s=5)
    target = weights(9)
    with pytest.raises(fl.PartialTransferError, match="not in the store") as caught:
        other_loader.load(target, identity)
    assert caught.value.failed_keys == (key,)
    assert untouched(target)


def test_a_missing_manifest(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.store.erase([stored.manifest_key], deadline_s=5)
    with pytest.raises(fl.PartialTransferError):
        other_loader.load(weights(9), identity)


def test_a_closed_loader_says_so(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.close()
    loader.close()
    with pytest.raises(fl.InvalidArgumentError, match="closed"):
        loader.load(weights(), identity)
