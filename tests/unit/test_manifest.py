"""The manifest: what is written of a table of tensors, and which manifest is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest_codec import decode_head, encode_manifest
from yr_fastload_native.errors import IntegrityError, ResourceExhaustedError

from .manifests import (
    DATA,
    HEAD_DATA,
    LOTS,
    MANIFEST,
    PLAIN,
    WHO,
    build,
    changed,
    decode,
    head_for,
    refused,
    table_of,
    tensors,
)


def test_round_trip() -> None:
    head = decode_head(HEAD_DATA, op="load")
    assert head == head_for(DATA)
    manifest = decode(DATA, head)
    assert manifest == MANIFEST
    assert decode(json.dumps(PLAIN).encode()) == MANIFEST  # the helpers below change nothing by themselves
    manifest.check_layout(table_of(tensors()), op="load")


def test_the_plan_and_the_digests_of_a_manifest() -> None:
    plan = decode(DATA).plan()
    assert plan.total_bytes == 600 + 28 + 8 + 96 + 5
    assert plan.chunks == len(MANIFEST.chunks)
    assert list(MANIFEST.digests().chunks) == [(i + 1) * 0x0123456789ABCDEF % 2**64 for i in range(plan.chunks)]


def test_each_entry_says_where_a_tensor_begins() -> None:
    at = {entry.name: (entry.chunk, entry.offset, entry.alias) for entry in MANIFEST.tensors}
    assert at["embed"] == (0, 0, None)
    assert at["head"] == (-1, 0, ("embed", 0))
    assert at["rows"] == (-1, 0, ("embed", 240))
    assert at["norm"] == (2, 128, None)  # after the last 88 bytes of embed, aligned
    assert at["empty"] == (-1, 0, None)
    assert at["scale"] == (2, 192, None)


def test_which_tensors_a_chunk_holds() -> None:
    plan = MANIFEST.plan()
    assert MANIFEST.chunk_tensors(plan, 0) == ["embed"]
    assert MANIFEST.chunk_tensors(plan, 2) == ["embed", "norm", "scale"]


def test_torch_published_numpy_loads() -> None:
    manifest = build({"a": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.uint8)})
    manifest.check_layout(table_of({"a": np.zeros((3, 4), np.float32), "b": bytearray(2)}), op="load")


def test_addresses_come_in_the_order_of_the_manifest() -> None:
    source = tensors()
    backwards = table_of(dict(reversed(source.items())))
    mapped = MANIFEST.addresses(backwards)
    assert list(mapped) == [0 if name == "empty" else value.data_ptr() for name, value in source.items()]


def test_a_manifest_of_no_tensors() -> None:
    data, head = encode_manifest(build({}), max_bytes=LOTS, transports=["host"])
    manifest = decode(data, decode_head(head, op="load"))
    assert (manifest.tensors, manifest.chunks) == ([], [])


def test_size_is_bounded_on_both_sides() -> None:
    assert encode_manifest(MANIFEST, max_bytes=len(DATA), transports=["host"]) == (DATA, HEAD_DATA)
    with pytest.raises(ResourceExhaustedError, match=f"max_manifest_bytes={len(DATA) - 1}"):
        encode_manifest(MANIFEST, max_bytes=len(DATA) - 1, transports=["host"])
    assert decode(DATA, max_bytes=len(DATA), max_tensors=8) == MANIFEST
    with pytest.raises(ResourceExhaustedError, match="max_manifest_bytes"):
        decode(DATA, max_bytes=len(DATA) - 1)
    with pytest.raises(ResourceExhaustedError, match="max_tensors=7"):
        decode(DATA, max_tensors=7)


def test_only_the_manifest_that_the_head_pins() -> None:
    other, _ = encode_manifest(build({"a": torch.zeros(3)}), max_bytes=LOTS, transports=["host"])
    flipped = bytes([*DATA[:-2], DATA[-2] ^ 1, DATA[-1]])
    for data in (other, flipped, DATA[:-1], DATA + b" ", b""):
        with pytest.raises(IntegrityError, match="not the one that the head names"):
            decode(data, head_for(DATA))
    for wrong in ({"manifest_bytes": len(DATA) + 1}, {"manifest_sha256": "0" * 64}):
        with pytest.raises(IntegrityError, match="not the one that the head names"):
            decode(DATA, head_for(DATA, **wrong))


def test_only_the_manifest_of_this_identity_and_generation() -> None:
    for who in (Identity.of({"model": "other"}, op="load"), Identity.of({**WHO.fields, "more": 1}, op="load")):
        with pytest.raises(IntegrityError, match="another identity"):
            decode(DATA, who=who)
    with pytest.raises(IntegrityError, match="identity or generation"):
        decode(DATA, head_for(DATA, generation="f" * 16))


@pytest.mark.parametrize("wrong", [0, 2, -1, 10**30])
def test_only_this_format(wrong: int) -> None:
    refused(changed(lambda plain: plain.update(format=wrong)))
    with pytest.raises(IntegrityError):
        decode_head(json.dumps(json.loads(HEAD_DATA) | {"format": wrong}).encode(), op="load")
    refused(changed(lambda plain: plain.update(format=2)), "format 2; this version reads format 1")


def test_only_this_digest() -> None:
    refused(changed(lambda plain: plain.update(digest="crc32")), "digest 'crc32'")
