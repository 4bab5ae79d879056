"""The digest of ``csrc/core/digest.hpp`` in torch operations, on the tensors' own device.

Sums and products of int64 wrap like those of uint64, so both give the same bits; only a right shift must be masked.
This is only imported if torch tensors are on a device that the CPU cannot read; the package itself never imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from yr_fastload_native import _core

__all__ = ["bytes_of", "chunk_digests"]

_BLOCK_BYTES = 8192
_COLUMNS = _BLOCK_BYTES // 8
_SLICE_BLOCKS = 2048  # 16 MiB at a time, with about four times as much in temporaries
_U64 = (1 << 64) - 1
_LOW = 0xFFFFFFFF
_BLOCK_KEY = 0x9E3779B97F4A7C15
_LENGTH_KEY = 0xD6E8FEB86659FD93
_FOLD_SEED = 0x9AE16A3B2F90404F
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _mix(x: int) -> int:
    for shift, factor in _MIX:
        x = ((x ^ (x >> shift)) * factor) & _U64
    return x ^ (x >> 31)


def _shifted(x: Any, bits: int) -> Any:
    """Right shift that fills with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_rows(x: Any) -> Any:
    for shift, factor in _MIX:
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


@functools.lru_cache(maxsize=8)
def _keys(device: str) -> tuple[Any, Any]:
    """Low and high halves of the columns' keys."""
    keys = [_mix(((i + 1) * _BLOCK_KEY) & _U64) for i in range(_COLUMNS)]
    low = torch.tensor([key & _LOW for key in keys], dtype=torch.int64, device=device)
    high = torch.tensor([key >> 32 for key in keys], dtype=torch.int64, device=device)
    return low, high


def bytes_of(tensor: Any, offset: int, size: int) -> Any:
    """Part of the memory that a dense tensor spans, as uint8, without a copy."""
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    start = tensor.storage_offset() * tensor.element_size() + offset
    return flat.set_(tensor.untyped_storage(), start, (size,), (1,))


def _row_sum(data: Any, first_block: int) -> Any:
    """Sum of the mixed rows of whole blocks; the last one may be shorter."""
    missing = -data.numel() % _BLOCK_BYTES
    if missing:
        data = torch.nn.functional.pad(data, (0, missing))
    elif data.data_ptr() % 8:
        data = data.clone()  # words must be aligned
    words = data.view(torch.int64).view(-1, _COLUMNS)
    low_key, high_key = _keys(str(data.device))
    low = (words + low_key) & _LOW
    high = (_shifted(words, 32) + high_key) & _LOW
    terms = low * high + words
    if missing:
        # Columns beyond the end contribute no term, not even zero.
        columns = _COLUMNS - missing // 8
        terms[-1, columns:] = 0
    rows = terms.sum(dim=1)
    count = rows.numel()
    positions = torch.arange(first_block + 1, first_block + count + 1, dtype=torch.int64, device=data.device)
    return _mix_rows(rows + positions * _signed(_BLOCK_KEY)).sum()


def _blob_sum(tensor: Any, offset: int, size: int) -> Any:
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    step = _SLICE_BLOCKS * _BLOCK_BYTES
    for start in range(0, size, step):
        data = bytes_of(tensor, offset + start, min(step, size - start))
        total = total + _row_sum(data, start // _BLOCK_BYTES)
    return total


def chunk_digests(plan: _core.Plan, tensors: Sequence[Any], chunks: Iterable[int]) -> list[int]:
    """The digest of each chunk, computed on the tensors' own device.

    Args:
        plan: How the tensors are cut into chunks.
        tensors: In the plan's order; None for a tensor that does not move. Dense, with any dtype and order of
            dimensions.
        chunks: Which chunks.
    """
    sums, sizes, counts = [], [], []
    with torch.no_grad():
        for chunk in chunks:
            blobs = plan.chunk(chunk)
            counts.append(len(blobs))
            for blob in blobs:
                sums.append(_blob_sum(tensors[blob.tensor].detach(), blob.tensor_offset, blob.bytes))
                sizes.append(blob.bytes)
        values = torch.stack(sums).tolist() if sums else []  # one way to the host for all
    blob_digests = iter(_mix((size * _LENGTH_KEY + value) & _U64) for size, value in zip(sizes, values, strict=True))
    folded = []
    for count in counts:
        state = _FOLD_SEED
        for _ in range(count):
            state = _mix((state * _BLOCK_KEY + next(blob_digests)) & _U64)
        folded.append(state)
    return folded
