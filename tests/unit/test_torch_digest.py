"""The digest by torch operations gives what the native one gives, on whatever bytes."""

from __future__ import annotations

from array import array

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.devices import torch_digest
from yr_fastload_native.devices.torch_digest import chunk_digests


def both(
    tensors: list[torch.Tensor], *, chunk_bytes: int = 1 << 20, max_blobs: int = 64
) -> tuple[list[int], list[int]]:
    sizes = array("Q", [tensor.numel() * tensor.element_size() for tensor in tensors])
    plan = _core.make_plan(sizes, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    addresses = array("Q", [tensor.data_ptr() if size else 0 for tensor, size in zip(tensors, sizes, strict=True)])
    native = list(_core.digest_chunks(plan, addresses, copy_threads=1, deadline_s=60))
    return native, chunk_digests(plan, tensors, range(plan.chunks))


def random_bytes(size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [*range(1, 18), 4095, 8185, 8191, 8192, 8193, 8200, 16384, 100_003])
def test_sizes(size: int) -> None:
    native, by_torch = both([random_bytes(size, size)])
    assert native == by_torch


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int64, torch.complex64]
)
def test_dtypes(dtype: torch.dtype) -> None:
    native, by_torch = both(
        [random_bytes(8 * 3000).remainder(2).view(dtype) if dtype is torch.bool else random_bytes(24000).view(dtype)]
    )
    assert native == by_torch


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=8), st.sampled_from([64, 4096, 65536]), st.integers(1, 4))
def test_blobs_and_chunks(sizes: list[int], chunk_bytes: int, max_blobs: int) -> None:
    tensors = [random_bytes(size, i) for i, size in enumerate(sizes)]
    native, by_torch = both(tensors, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    assert native == by_torch


def test_views_that_start_anywhere_and_permuted_ones() -> None:
    base = random_bytes(60_000)
    parameter = torch.nn.Parameter(torch.randn(40, 50).t())
    native, by_torch = both([base[3:20_001], base[30_000:], parameter, torch.randn(3, 4, 5).permute(2, 0, 1)])
    assert native == by_torch


def test_slices_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_digest, "_SLICE_BLOCKS", 2)
    native, by_torch = both([random_bytes(100_001)])
    assert native == by_torch


def test_a_flipped_bit_shows() -> None:
    tensor = random_bytes(50_000)
    _, before = both([tensor])
    tensor[31_234] ^= 1
    _, after = both([tensor])
    assert before != after


def test_some_chunks_and_none() -> None:
    tensors = [random_bytes(5000)]
    plan = _core.make_plan(array("Q", [5000]), chunk_bytes=1024, max_blobs=1)
    every = chunk_digests(plan, tensors, range(plan.chunks))
    assert chunk_digests(plan, tensors, [3, 1]) == [every[3], every[1]]
    assert chunk_digests(plan, tensors, []) == []
