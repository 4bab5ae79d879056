"""What is fuzzed: whatever the bytes, a typed error or a result that holds what it promises, soon and in little memory.

Each target takes bytes and raises what should not happen.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from yr_fastload_native import _core
from yr_fastload_native.catalogue.file_sums import decode_files, encode_files
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.late_digests import decode_digests, encode_digests
from yr_fastload_native.catalogue.manifest import Head, build_manifest
from yr_fastload_native.catalogue.manifest_codec import decode_head, decode_manifest, encode_manifest
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.weights.tensor_table import TensorTable

WHO = Identity.of({"model": "fuzzed", "tp": 2}, op="fuzz")
GENERATION = "0123456789abcdef"
LIMITS = (256, 3)
_TENSORS = {
    "embed": np.zeros((10, 30), np.float16),
    "norm": np.zeros(7, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "scale": np.zeros((), np.float64),
    "last": np.zeros(5, np.int8),
}
_TENSORS["tied"] = _TENSORS["embed"]
TABLE = TensorTable(_TENSORS, op="load", writable=True, max_tensors=100)
_SIZES = array("Q", [0 if TABLE.alias(index) else tensor.bytes for index, tensor in enumerate(TABLE.tensors)])
_PLAN = _core.make_plan(_SIZES, chunk_bytes=LIMITS[0], max_blobs=LIMITS[1])
_DIGESTS = memoryview(array("Q", range(_PLAN.chunks)))
MANIFEST = build_manifest(WHO, GENERATION, TABLE, _PLAN, _DIGESTS, LIMITS)
MANIFEST_BYTES, HEAD_BYTES = encode_manifest(MANIFEST, max_bytes=1 << 20, transports=["host"])
DIGESTS_BYTES = encode_digests(MANIFEST, _DIGESTS, None)


def _pinned(data: bytes) -> Head:
    """A head that pins these bytes, so that they are parsed at all."""
    return Head(1, GENERATION, len(data), hashlib.sha256(data).hexdigest(), ["host"])


def manifest(data: bytes) -> None:
    """A manifest is what this package would have written of its tensors, or it is refused."""
    try:
        read = decode_manifest(data, _pinned(data), WHO, max_bytes=1 << 16, max_tensors=100, op="fuzz")
    except FastLoadError:
        return
    plan = read.plan()
    assert plan.chunks == len(read.chunks)
    assert plan.total_bytes == sum(chunk_bytes_of(plan, chunk) for chunk in range(plan.chunks))
    try:
        read.check_layout(TABLE, op="fuzz")
    except FastLoadError:
        return
    # Nothing is written outside this process's tensors.
    addresses = read.addresses(TABLE)
    for blob in (blob for chunk in range(plan.chunks) for blob in plan.chunk(chunk)):
        mine = TABLE.tensors[TABLE.index[read.tensors[blob.tensor].name]]
        assert addresses[blob.tensor] == mine.address
        assert blob.tensor_offset + blob.bytes <= mine.bytes


def chunk_bytes_of(plan: _core.Plan, chunk: int) -> int:
    return sum(blob.bytes for blob in plan.chunk(chunk))


_VALUES: list[Any] = [
    None,
    -1,
    0,
    1,
    64,
    255,
    256,
    1 << 31,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    0.5,
    "",
    "norm",
    "tied",
    [],
    {},
]


def fields(data: bytes) -> None:
    """A valid manifest with some of its fields replaced, removed, repeated or swapped: what survives random bytes."""
    tree = json.loads(MANIFEST_BYTES)
    position = 0

    def draw(below: int) -> int:
        nonlocal position
        value = int.from_bytes(data[position : position + 2], "little")
        position += 2
        return value % max(1, below)

    for _ in range(1 + len(data) // 8 if len(data) < 64 else 8):
        where: Any = tree
        for _ in range(4):
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            if not keys:
                break
            key = keys[draw(len(keys))]
            if isinstance(where[key], (dict, list)) and where[key] and draw(4):
                where = where[key]
                continue
            how = draw(4)
            if how == 0:
                where[key] = _VALUES[draw(len(_VALUES))]
            elif how == 1:
                del where[key]
            elif how == 2 and isinstance(where, list):
                where.append(where[key])
            else:
                other = keys[draw(len(keys))]
                where[key], where[other] = where[other], where[key]
            break
    manifest(json.dumps(tree, separators=(",", ":")).encode())


def head(data: bytes) -> None:
    try:
        decode_head(data, op="fuzz")
    except FastLoadError:
        return


def digests(data: bytes) -> None:
    try:
        taken = decode_digests(data, MANIFEST, op="fuzz")
    except FastLoadError:
        return
    assert len(taken.chunks) == _PLAN.chunks


def files(data: bytes) -> None:
    """Sums of files: refused, or what would be written."""
    try:
        told = decode_files(data, GENERATION, max_bytes=1 << 16, op="fuzz")
    except FastLoadError:
        return
    assert decode_files(encode_files(GENERATION, told), GENERATION, max_bytes=1 << 20, op="fuzz") == told


def plan(data: bytes) -> None:
    """Every byte of every tensor is in one blob, blobs lie apart in their chunks, and chunks keep their bounds."""
    numbers = array("Q")
    numbers.frombytes(data[: len(data) // 8 * 8])
    if len(numbers) < 2:
        return
    chunk_bytes, max_blobs, sizes = numbers[0] % (1 << 31), numbers[1] % 70_000, numbers[2:]
    try:
        made = _core.make_plan(sizes, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    except FastLoadError:
        return
    assert made.total_bytes == sum(sizes)
    if len(made.blobs) > 4 * 20_000:  # an object each
        return
    covered = dict.fromkeys((i for i, size in enumerate(sizes) if size), 0)
    for chunk in range(made.chunks):
        end, blobs = 0, made.chunk(chunk)
        assert 1 <= len(blobs) <= max_blobs
        for blob in blobs:
            assert blob.tensor_offset == covered[blob.tensor]
            assert blob.bytes > 0
            assert blob.chunk_offset >= end
            covered[blob.tensor] += blob.bytes
            end = blob.chunk_offset + blob.bytes
        assert end <= made.chunk_bytes[chunk] <= chunk_bytes
    assert all(covered[tensor] == sizes[tensor] for tensor in covered)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "manifest": manifest,
    "fields": fields,
    "head": head,
    "digests": digests,
    "files": files,
    "plan": plan,
}
SEEDS: dict[str, list[bytes]] = {
    "manifest": [MANIFEST_BYTES],
    "fields": [bytes(range(8)), bytes(range(100, 164))],
    "head": [HEAD_BYTES],
    "digests": [DIGESTS_BYTES],
    "files": [encode_files(GENERATION, {"model.safetensors": "0" * 64})],
    "plan": [
        array("Q", [256, 3, 600, 28, 0, 8, 5]).tobytes(),
        array("Q", [64, 1, (1 << 63) - 1]).tobytes(),
        array("Q", [1 << 30, 65536, *[1 << 40] * 3]).tobytes(),
    ],
}
