"""A reader that knows which weights it wants takes no others, whoever publishes them and however they were forged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest_codec import decode_head, decode_manifest, encode_manifest
from yr_fastload_native.testing import MemoryStore

from .keys import wait_renewed


def weights(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    base = rng.random((300, 500), dtype=np.float32)
    return {"base": base, "tied": base, "b": rng.random(7, dtype=np.float32), "empty": np.zeros((0, 2))}


def empty() -> dict[str, Any]:
    base = np.full((300, 500), 7, np.float32)
    return {"base": base, "tied": base, "b": np.full(7, 7, np.float32), "empty": np.zeros((0, 2))}


def untouched(target: dict[str, Any]) -> bool:
    return all((tensor == 7).all() for tensor in target.values())


@pytest.fixture
def publisher(open_loader: Callable[..., fl.FastLoader]) -> fl.FastLoader:
    return open_loader(publish_sha256=True, lease_s=3600)


def test_a_pin_is_the_publishers_and_the_files(
    publisher: fl.FastLoader, loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = publisher.publish(weights(), identity)
    assert publication.digest == fl.content_digest(weights(), identity)
    target = empty()
    report = loader.load(target, identity, trusted_digests={publication.digest, "0" * 64})
    assert all(np.array_equal(target[name], weights()[name]) for name in target)
    assert report.stages["sha256"] > 0
    held = loader.publication(identity)
    assert held is not None
    assert held.digest == publication.digest


def test_a_pin_may_be_a_setting(
    publisher: fl.FastLoader, open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]
) -> None:
    digest = publisher.publish(weights(), identity).digest
    for trusted, error in ((f"{'0' * 64},{digest}", None), ("0" * 64, fl.IntegrityError)):
        with open_loader(trusted_digests=trusted, hold=False) as reader:
            if error is None:
                assert reader.load(empty(), identity).verified
            else:
                with pytest.raises(error):
                    reader.load(empty(), identity)
                assert reader.load(empty(), identity, trusted_digests=[digest]).verified  # what is said here wins


def test_another_instance_that_publishes_the_same_matches(
    publisher: fl.FastLoader, open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]
) -> None:
    first = publisher.publish(weights(), identity)
    pin = first.digest
    with open_loader(publish_sha256=True, chunk_bytes=4096) as joined:
        twin = joined.publish(weights(), identity)
        assert (twin.joined, twin.digest) == (True, pin)
        first.close()
        twin.close()
        anew = joined.publish(weights(), identity)  # another generation, in other chunks
        assert (anew.joined, anew.digest) == (False, pin)
        assert anew.chunks > first.chunks
        assert joined.load(empty(), identity, trusted_digests=pin or "").verified


def test_other_weights_are_refused_before_anything_is_written(
    publisher: fl.FastLoader, loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    pin = fl.content_digest(weights(), identity)
    evil = publisher.publish(weights(1), identity)
    target = empty()
    with pytest.raises(
        fl.IntegrityError, match=r"publisher '[^']+:\d+' \(as it calls itself\) has published"
    ) as caught:
        loader.load(target, identity, trusted_digests=pin)
    assert str(evil.digest) in str(caught.value)
    assert untouched(target)
    assert not caught.value.memory_written


def test_trusted_weights_under_another_identity_are_refused(
    publisher: fl.FastLoader, loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    other = {**identity, "model": "another"}
    trusted = [fl.content_digest(weights(), identity), fl.content_digest(weights(1), other)]
    publisher.publish(weights(1), identity)
    target = empty()
    with pytest.raises(fl.IntegrityError, match="which is none of the 2 in trusted_digests; nothing was written"):
        loader.load(target, identity, trusted_digests=trusted)
    assert untouched(target)


def test_a_publication_without_sums_is_refused_with_what_to_do(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    assert other_loader.publish(weights(), identity).digest is None
    target = empty()
    with pytest.raises(fl.IntegrityError, match="set publish_sha256 where these weights are published"):
        loader.load(target, identity, trusted_digests=fl.content_digest(weights(), identity))
    assert untouched(target)


def test_who_publishes_sums_replaces_a_publication_without(
    publisher: fl.FastLoader, loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    loader.publish(weights(), identity)
    published = publisher.publish(weights(), identity)
    assert not published.joined
    assert loader.load(empty(), identity, trusted_digests=published.digest or "").verified


@pytest.mark.parametrize("digests", [[], "", "abc", ["A" * 64]])
def test_what_is_no_digest_is_refused(loader: fl.FastLoader, identity: dict[str, str], digests: Any) -> None:
    with pytest.raises(fl.InvalidArgumentError, match="trusted_digests"):
        loader.load(empty(), identity, trusted_digests=digests)


# -- forgers ----------------------------------------------------------------------------------------------------------


def _overwrite(store: MemoryStore, identity: dict[str, str], change: Any) -> None:
    """Put another manifest in the place of the published one, with a head that pins it."""
    who = Identity.of(identity, op="test")
    wait_renewed(store, who)
    head = decode_head(store.get(who.head_key, deadline_s=5) or b"", op="test")
    key = who.manifest_key(head.generation)
    body = store.get(key, deadline_s=5) or b""
    manifest = decode_manifest(body, head, who, max_bytes=1 << 20, max_tensors=99, op="test")
    forged, new_head = encode_manifest(change(manifest), max_bytes=1 << 20, transports=head.transports)
    store.set(key, forged, ttl_s=60, deadline_s=5)
    store.set(who.head_key, new_head, ttl_s=60, deadline_s=5)


def test_a_manifest_that_lies_about_its_bytes_is_found_out(
    publisher: fl.FastLoader, loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """Wrong bytes with their own chunk digests, and the sums of the right ones: only SHA-256 tells."""
    pin = fl.content_digest(weights(), identity)
    right = publisher.publish(weights(), {**identity, "unique": "right"})
    assert right.digest is not None
    publisher.publish(weights(1), identity)
    sums = _sums(weights())
    _overwrite(store, identity, lambda manifest: msgspec.structs.replace(manifest, sha256=sums))
    target = empty()
    assert loader.load(target, identity).verified  # without a pin there is nothing to find
    with pytest.raises(
        fl.IntegrityError, match=r"2 of 4 tensors are not the trusted ones by SHA-256, .*publisher '"
    ) as e:
        loader.load(target, identity, trusted_digests=pin)
    assert e.value.memory_written
    assert e.value.failed_keys == ("base", "b")


def _sums(tensors: dict[str, Any]) -> list[str]:
    from yr_fastload_native.weights.sha256 import sums
    from yr_fastload_native.weights.tensor_table import TensorTable

    return sums(TensorTable(tensors, op="test", writable=False, max_tensors=9), 2, lambda: None)


def _forge(block: bytearray) -> None:
    """Other bytes with the same chunk digest: anybody can make them, for its keys are public.

    NH takes from each word the product of its two halves, keyed, and adds the word. Two words whose keyed low halves
    are made 0 add nothing by their products, so what one gains in its upper half the other may lose.
    """
    words = memoryview(block).cast("Q")
    for column in (0, 1):
        words[column] = 100 << 32 | -_KEYS[column] & 0xFFFFFFFF


def _key(column: int) -> int:
    x = ((column + 1) * 0x9E3779B97F4A7C15) & ((1 << 64) - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = ((x ^ (x >> shift)) * factor) & ((1 << 64) - 1)
    return x ^ (x >> 31)


_KEYS = [_key(0), _key(1)]


def test_bytes_forged_for_the_chunk_digest_are_found_out(
    publisher: fl.FastLoader, loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    """What makes the difference between the two digests: shared memory overwritten by whoever maps it."""
    raw = bytearray(np.random.default_rng(3).bytes(1 << 20))
    _forge(raw)
    right = {"w": np.frombuffer(bytes(raw), np.uint8)}
    words = memoryview(raw).cast("Q")
    words[0] += 5 << 32
    words[1] -= 5 << 32
    forged = bytes(raw)
    assert forged != right["w"].tobytes()
    pin = publisher.publish(right, identity).digest
    who = Identity.of(identity, op="test")
    assert pin is not None
    generation = publisher.publication(identity)
    assert generation is not None
    key = _core.chunk_keys(who.chunk_prefix(generation.generation), 1)[0]
    store.set(key, forged, ttl_s=60, deadline_s=5)
    target = {"w": np.zeros(1 << 20, np.uint8)}
    assert loader.load(target, identity).verified  # the chunk digest is satisfied
    assert target["w"].tobytes() == forged
    with pytest.raises(fl.IntegrityError, match="1 of 1 tensors are not the trusted ones by SHA-256"):
        loader.load(target, identity, trusted_digests=pin)


def test_a_reader_that_was_cheated_serves_nobody(
    publisher: fl.FastLoader, loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    pin = fl.content_digest(weights(), identity)
    publisher.publish(weights(1), identity)
    with pytest.raises(fl.IntegrityError):
        loader.load(empty(), identity, trusted_digests=pin)
    assert loader.publication(identity) is None


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: ["", *s[1:]], lambda s: [*s[:3], "0" * 64], lambda s: []]
)
def test_lists_of_sums_that_do_not_fit_are_refused(
    publisher: fl.FastLoader, loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str], change: Any
) -> None:
    publisher.publish(weights(), identity)
    _overwrite(store, identity, lambda m: msgspec.structs.replace(m, sha256=change(m.sha256)))
    target = empty()
    with pytest.raises(fl.IntegrityError, match="does not have one for each tensor that moves"):
        loader.load(target, identity)
    assert untouched(target)


def test_a_publisher_cannot_fill_a_message(
    publisher: fl.FastLoader, loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    publisher.publish(weights(), identity)
    name = "evil\x1b[31m\n" + "x" * 10000
    _overwrite(store, identity, lambda manifest: msgspec.structs.replace(manifest, publisher=name))
    with pytest.raises(fl.IntegrityError) as caught:
        loader.load(empty(), identity, trusted_digests="0" * 64)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
