"""The digest against two implementations of its definition that share no code with it."""

from __future__ import annotations

import platform
import random
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core

BLOCK = 8192
MASK = (1 << 64) - 1
BLOCK_KEY = 0x9E3779B97F4A7C15
LENGTH_KEY = 0xD6E8FEB86659FD93

LENGTHS = sorted(
    {*range(201), *(BLOCK * n + delta for n in (1, 2, 3, 7) for delta in (-65, -64, -9, -8, -7, -1, 0, 1, 7, 8, 9, 64))}
)


def mix(x: int) -> int:
    x &= MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


KEYS = [mix((column + 1) * BLOCK_KEY) for column in range(BLOCK // 8)]


def finish(size: int, block_sums: list[int]) -> int:
    return mix(size * LENGTH_KEY + sum(mix(value + (j + 1) * BLOCK_KEY) for j, value in enumerate(block_sums)))


def padded(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % BLOCK), dtype="<u8").reshape(-1, BLOCK // 8)


def numpy_digest(data: bytes) -> int:
    """By numpy's unsigned words. Padding must not count: a column of a short block is one that holds data."""
    words, keys = padded(data), np.array(KEYS, dtype="<u8")
    low = (words + keys) & np.uint64(0xFFFFFFFF)
    high = ((words >> np.uint64(32)) + (keys >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
    terms = low * high + words
    live = np.arange(words.size).reshape(words.shape) * 8 < len(data)
    return finish(len(data), [int(value) for value in np.where(live, terms, np.uint64(0)).sum(axis=1, dtype="<u8")])


def torch_digest(data: torch.Tensor) -> int:
    """As a device would do it: two's complement 64-bit tensor operations alone, sums over rows."""
    size = data.numel()
    rows = -(-size // BLOCK)
    store = torch.zeros(rows * BLOCK, dtype=torch.uint8)
    store[:size] = data
    words = store.view(torch.int64).view(rows, BLOCK // 8)
    keys = torch.frombuffer(bytearray(array("Q", KEYS).tobytes()), dtype=torch.int64)
    low32 = 0xFFFFFFFF
    low = (words + keys) & low32
    high = ((words >> 32 & low32) + (keys >> 32 & low32)) & low32
    terms = low * high + words
    live = torch.arange(words.numel()).view_as(words) * 8 < size
    sums = torch.where(live, terms, torch.zeros_like(terms)).sum(dim=1)
    return finish(size, [int(value) & MASK for value in sums])


def pattern(size: int, seed: int = 0) -> bytes:
    return random.Random(size * 31 + seed).randbytes(size)


def test_the_keys_are_those_of_the_definition() -> None:
    assert list(_core.digest_keys()) == KEYS
    assert _core.DIGEST_BLOCK_BYTES == BLOCK


def test_the_backend_is_the_best_of_this_machine() -> None:
    flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), "")
    best = "avx2" if "avx2" in flags.split() else "neon" if platform.machine() == "aarch64" else "generic"
    assert _core.digest_backend() == best


def test_numpy_and_torch_reach_the_same_value() -> None:
    for size in LENGTHS:
        for data in (pattern(size), b"\xff" * size, bytes(size)):
            value = _core.digest(data)
            assert value == numpy_digest(data), size
            assert value == torch_digest(torch.tensor(list(data), dtype=torch.uint8)), size


@pytest.mark.parametrize("offset", [0, 1, 8, 16, 40])
def test_a_copy_has_the_digest_of_its_source_and_ends_where_it_ends(offset: int) -> None:
    for size in (*LENGTHS, 9 * BLOCK, 9 * BLOCK + 64, 9 * BLOCK + 77):
        data = pattern(size)
        target = np.full(offset + size + 128, 0x5A, np.uint8)
        begin = -target.ctypes.data % 64 + offset
        assert _core.copy_and_digest(target[begin : begin + size], data) == _core.digest(data), size
        assert target[begin : begin + size].tobytes() == data
        assert (np.delete(target, np.s_[begin : begin + size]) == 0x5A).all()


@settings(deadline=None)
@given(st.binary(max_size=3 * BLOCK))
def test_numpy_and_torch_reach_the_same_value_of_any_bytes(data: bytes) -> None:
    as_tensor = torch.tensor(np.frombuffer(data, dtype=np.uint8).copy())
    assert _core.digest(data) == numpy_digest(data) == torch_digest(as_tensor)


def test_portable_code_and_the_one_in_use_agree() -> None:
    for size in [size for size in LENGTHS if size <= BLOCK] + random.Random(5).sample(range(BLOCK), 100):
        for data in (pattern(size), b"\xff" * size, bytes(size)):
            generic, best = _core.digest_block_sums(data)
            assert generic == best, size
    with pytest.raises(ValueError, match="more than one digest block"):
        _core.digest_block_sums(bytes(BLOCK + 1))


def test_unaligned_memory_has_the_same_digest() -> None:
    data = pattern(2 * BLOCK + 77)
    for shift in range(1, 17):
        store = bytearray(shift) + data
        assert _core.digest(memoryview(store)[shift:]) == _core.digest(data)


@pytest.mark.parametrize("size", [1, 8, 63, 200, BLOCK, BLOCK + 5, 3 * BLOCK])
def test_a_flipped_bit_changes_it(size: int) -> None:
    data = bytearray(pattern(size))
    before = _core.digest(data)
    bits = range(8 * size) if size <= 200 else [*random.Random(size).sample(range(8 * size), 500), 0, 8 * size - 1]
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
        assert _core.digest(data) != before, bit
        data[bit // 8] ^= 1 << bit % 8
    assert _core.digest(data) == before


@settings(deadline=None)
@given(st.data(), st.integers(2, 3 * BLOCK // 8))
def test_swapped_words_change_it(data: st.DataObject, words: int) -> None:
    values = np.arange(1, words + 1, dtype="<u8")
    before = _core.digest(values)
    i = data.draw(st.integers(0, words - 1))
    j = data.draw(st.integers(0, words - 1).filter(lambda j: j != i))
    values[[i, j]] = values[[j, i]]
    assert _core.digest(values) != before


def test_swapped_blocks_change_it() -> None:
    blocks = [pattern(BLOCK, seed) for seed in range(4)]
    before = _core.digest(b"".join(blocks))
    for i in range(4):
        for j in range(i):
            swapped = list(blocks)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            assert _core.digest(b"".join(swapped)) != before


def test_a_prefix_or_more_zeros_have_another_digest() -> None:
    for data in (pattern(2 * BLOCK + 100), bytes(2 * BLOCK + 100)):
        sizes = [*range(100), BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(data)]
        assert len({_core.digest(data[:size]) for size in sizes}) == len(sizes)
    data = pattern(100)
    extended = [data + bytes(n) for n in (0, 1, 3, 4, 5, 12, 100, BLOCK - 100, BLOCK, 2 * BLOCK)]
    assert len({_core.digest(item) for item in extended}) == len(extended)


def test_shifted_bytes_have_another_digest() -> None:
    data = pattern(BLOCK + 64)
    assert len({_core.digest(data[n:] + data[:n]) for n in range(64)}) == 64


def fold(values: list[int]) -> int:
    return _core.fold_digests(array("Q", values))


@settings(deadline=None)
@given(st.lists(st.integers(0, MASK), max_size=20))
def test_fold_is_its_definition(values: list[int]) -> None:
    state = 0x9AE16A3B2F90404F
    for value in values:
        state = mix(state * BLOCK_KEY + value)
    assert fold(values) == state


@settings(deadline=None)
@given(st.lists(st.integers(0, MASK), min_size=2, max_size=6, unique=True), st.randoms(use_true_random=False))
def test_fold_depends_on_order_and_number(values: list[int], rng: random.Random) -> None:
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert (fold(shuffled) == fold(values)) == (shuffled == values)
    assert fold(values[:-1]) != fold(values)
    assert fold([*values, 0]) != fold(values)


def test_only_contiguous_memory_has_a_digest() -> None:
    grid = np.arange(64, dtype=np.uint16).reshape(8, 8)
    assert _core.digest(grid) == _core.digest(grid.tobytes())
    assert _core.digest(grid[2:3, :]) == _core.digest(grid[2:3, :].tobytes())
    for other in (grid.T, grid[:, 1:], grid[::2], grid[::-1], np.broadcast_to(grid[0], (3, 8))):
        with pytest.raises(ValueError, match="not C-contiguous"):
            _core.digest(other)
        with pytest.raises(ValueError, match="not C-contiguous"):
            _core.digest_block_sums(other)
    with pytest.raises(TypeError):
        _core.digest("text")
