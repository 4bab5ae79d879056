"""The digest that a device's matrix unit computes, against its definition by numpy's matrices."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue import manifest_codec
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError

from .test_digest import BLOCK, BLOCK_KEY, LENGTHS, MASK, finish, mix, pattern

KIND = "matrix64-1"
COLUMNS, SHIFT = 10, 64
NUMBERS = np.array([mix((i + 1) * 0xBB67AE8584CAA73B) >> 57 for i in range(BLOCK + SHIFT * (COLUMNS - 1))], np.int8)
MATRIX = np.stack([NUMBERS[SHIFT * column : SHIFT * column + BLOCK] for column in range(COLUMNS)], axis=1)
BACKENDS = ["avx512-vnni", "avx2", "neon-dotprod", "generic"]


def sums_of(data: bytes) -> np.ndarray:
    rows = np.frombuffer(data + bytes(-len(data) % BLOCK), np.int8).reshape(-1, BLOCK)
    return rows.astype(np.int32) @ MATRIX.astype(np.int32)


def folded(sums: list[int]) -> int:
    state = 0
    for low, high in zip(sums[::2], sums[1::2], strict=True):
        state = mix(state * BLOCK_KEY + (low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32))
    return state


def definition(data: bytes) -> int:
    return finish(len(data), [folded(row) for row in sums_of(data).tolist()])


def test_the_numbers_are_those_of_the_definition() -> None:
    assert np.array_equal(np.frombuffer(_core.matrix_numbers(), np.int8), NUMBERS)
    assert _core.digest_names() == ["nh64-1", KIND]


def test_every_byte_counts_in_a_column_and_no_two_count_alike() -> None:
    assert MATRIX.any(axis=1).all()
    assert len({row.tobytes() for row in MATRIX}) == BLOCK


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_instruction_set_has_the_sums_of_the_definition(backend: str) -> None:
    if _core.row_sums(b"", backend) is None:
        pytest.skip(f"this CPU has no {backend}")
    sizes = [size for size in LENGTHS if 0 < size <= BLOCK] + random.Random(5).sample(range(1, BLOCK), 100)
    for size in sizes:
        for data in (pattern(size), b"\x80" * size, b"\x7f" * size, b"\xff" * size):
            assert np.array_equal(_core.row_sums(data, backend), sums_of(data)[0]), size
    store = pattern(BLOCK + 17)
    for shift in range(17):
        row = memoryview(store)[shift : shift + BLOCK]
        assert np.array_equal(_core.row_sums(row, backend), sums_of(bytes(row))[0])
    with pytest.raises(ValueError, match="more than one row"):
        _core.row_sums(bytes(BLOCK + 1), backend)


def test_the_best_of_them_is_in_use() -> None:
    there = [backend for backend in BACKENDS if _core.row_sums(b"", backend) is not None]
    assert _core.digest_backend(KIND) == there[0]


@pytest.mark.parametrize("size", LENGTHS)
def test_it_is_its_definition(size: int) -> None:
    for data in (pattern(size), b"\xff" * size, bytes(size)):
        assert _core.digest(data, KIND) == definition(data)


@settings(deadline=None)
@given(st.binary(max_size=3 * BLOCK))
def test_it_is_its_definition_of_any_bytes(data: bytes) -> None:
    assert _core.digest(data, KIND) == definition(data)


@pytest.mark.parametrize("size", [1, 63, 200, BLOCK, BLOCK + 5, 3 * BLOCK])
def test_a_flipped_bit_changes_it(size: int) -> None:
    data = bytearray(pattern(size))
    before = _core.digest(data, KIND)
    bits = range(8 * size) if size <= 200 else [*random.Random(size).sample(range(8 * size), 500), 0, 8 * size - 1]
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
        assert _core.digest(data, KIND) != before, bit
        data[bit // 8] ^= 1 << bit % 8


def test_order_length_and_place_count() -> None:
    data = pattern(2 * BLOCK + 64)
    values = {_core.digest(data[n:] + data[:n], KIND) for n in range(100)}
    values |= {_core.digest(data[BLOCK : 2 * BLOCK] + data[:BLOCK] + data[2 * BLOCK :], KIND)}
    values |= {_core.digest(data[:n], KIND) for n in (0, 1, 63, BLOCK - 1, BLOCK, BLOCK + 1)}
    values |= {_core.digest(data + bytes(n), KIND) for n in (1, 64, BLOCK)}
    assert len(values) == 100 + 1 + 6 + 3
    zeros = [_core.digest(bytes(n), KIND) for n in (0, 1, 64, BLOCK, BLOCK + 1, 2 * BLOCK)]
    assert len(set(zeros)) == len(zeros)


def test_chunks_have_it() -> None:
    tensors = [np.frombuffer(bytearray(pattern(size, 3)), np.uint8) for size in (5, BLOCK, 3 * BLOCK + 9)]
    addresses = array("Q", [tensor.ctypes.data for tensor in tensors])
    plan = _core.make_plan(array("Q", [tensor.nbytes for tensor in tensors]), chunk_bytes=1 << 20, max_blobs=8)
    (found,) = _core.digest_chunks(plan, addresses, copy_threads=2, deadline_s=60, digest=KIND)
    order = [tensors[blob.tensor] for blob in plan.chunk(0)]
    assert found == _core.fold_digests(array("Q", [definition(tensor.tobytes()) for tensor in order]))
    assert found != _core.digest_chunks(plan, addresses, copy_threads=2, deadline_s=60)[0]


def test_there_are_no_others() -> None:
    with pytest.raises(InvalidArgumentError, match="no digest 'crc32'"):
        _core.digest(b"", "crc32")
    assert 0 <= _core.digest(b"x", KIND) <= MASK


@pytest.fixture
def published(
    open_loader: Callable[..., fl.FastLoader], identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, np.ndarray]:
    """Weights of a loader on a device whose digest this is."""
    weights = {str(size): np.frombuffer(bytearray(pattern(size)), np.uint8) for size in (7, BLOCK, 3 * BLOCK + 1)}
    with monkeypatch.context() as there:
        there.setattr(DeviceContext, "digest", KIND)
        open_loader().publish(weights, identity)
    return weights


@pytest.mark.parametrize("staging", ["auto", "always"])
def test_readers_take_the_one_that_a_manifest_names(
    published: dict[str, np.ndarray],
    open_loader: Callable[..., fl.FastLoader],
    identity: dict[str, str],
    staging: str,
) -> None:
    target = {name: np.zeros_like(value) for name, value in published.items()}
    assert open_loader(staging=staging).load(target, identity).verified
    assert all(np.array_equal(target[name], value) for name, value in published.items())


def test_other_values_are_not_taken_for_it(
    published: dict[str, np.ndarray],
    open_loader: Callable[..., fl.FastLoader],
    identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, load = open_loader(), _core.load_chunks
    monkeypatch.setattr(_core, "load_chunks", lambda *args, digest, **rest: load(*args, digest="nh64-1", **rest))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        reader.load({name: np.zeros_like(value) for name, value in published.items()}, identity)


def test_equal_bytes_are_joined_whatever_their_digest(
    published: dict[str, np.ndarray], open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]
) -> None:
    assert open_loader().publish(published, identity).joined
    other = {name: value + 1 for name, value in published.items()}
    assert not open_loader().publish(other, identity).joined


def test_a_reader_that_does_not_know_it_refuses(
    published: dict[str, np.ndarray],
    open_loader: Callable[..., fl.FastLoader],
    identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifest_codec, "DIGESTS", ("nh64-1",))  # as it was
    with pytest.raises(IntegrityError, match="uses digest 'matrix64-1'; this version supports 'nh64-1'"):
        open_loader().load({name: np.zeros_like(value) for name, value in published.items()}, identity)
