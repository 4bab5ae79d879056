"""Reads whole checkpoints into memory, and compares them with what is there."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.safetensors_files import StoredTensor, scan_directory
from yr_fastload_native.checkpoints.typed_reads import open_file, read_into

__all__ = ["compare", "read_directory"]

_Progress = Callable[[int, int], None]

_PIECE_BYTES = 16 << 20


def read_directory(
    directory: str | os.PathLike[str],
    *,
    drop_cache: bool = False,
    progress: _Progress | None = None,
    threads: int = 1,
) -> dict[str, NDArray[Any]]:
    """Read a checkpoint into memory allocated tensor by tensor, as a framework would.

    Without ``drop_cache``, files that were read or written recently come from a warm page cache.

    Args:
        directory: As for :func:`scan_directory`.
        drop_cache: Read from disk; see :func:`drop_page_cache`.
        progress: Called with the bytes read so far and in total, at least once every 16 MiB.
        threads: Number of threads, each of which reads part of the tensors.

    Raises:
        IntegrityError: As :func:`scan_directory`, or a file became shorter while it was read.
        InvalidArgumentError: As :func:`scan_directory`.
        ResourceExhaustedError: There is not enough memory.
    """
    stored = scan_directory(directory)
    if drop_cache:
        for path in {tensor.path for tensor in stored.values()}:
            drop_page_cache(path)
    total = sum(tensor.nbytes for tensor in stored.values())
    arrays = {name: tensor.allocate() for name, tensor in stored.items()}
    lock = threading.Lock()
    done = 0

    def read(part: Mapping[str, StoredTensor]) -> None:
        nonlocal done
        for file, tensor in _by_file(part):
            for piece in _pieces(arrays[tensor.name]):
                read_into(file, tensor.path, piece)
                with lock:
                    done += piece.nbytes
                    if progress is not None:
                        progress(done, total)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, _parts(stored, threads)):
            pass
    return arrays


def compare(stored: Mapping[str, StoredTensor], arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Compare arrays with the files, every byte, 16 MiB at a time.

    Returns:
        Names whose dtype, shape or bytes differ, or that only one side has; empty if everything is equal.

    Raises:
        IntegrityError: A file became shorter.
        InvalidArgumentError: A file cannot be read.
    """
    scratch = np.empty(_PIECE_BYTES, np.uint8)
    same = set()
    for file, tensor in _by_file(stored):
        array = arrays.get(tensor.name)
        if array is None or array.dtype != tensor.dtype or array.shape != tensor.shape:
            continue
        equal = True
        for piece in _pieces(array):
            expected = scratch[: piece.nbytes]
            read_into(file, tensor.path, expected)
            equal = equal and np.array_equal(piece, expected)
        if equal:
            same.add(tensor.name)
    return [name for name in dict.fromkeys([*stored, *arrays]) if name not in same]


def _by_file(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[io.FileIO, StoredTensor]]:
    """Yield every tensor with its open file, positioned at the tensor's first byte."""
    for path, tensors in groupby(stored.values(), lambda tensor: tensor.path):
        with open_file(path) as file:
            for tensor in tensors:
                file.seek(tensor.offset)
                yield file, tensor


def _parts(stored: Mapping[str, StoredTensor], count: int) -> list[dict[str, StoredTensor]]:
    """Divide the tensors into this many runs of about equal size."""
    parts: list[dict[str, StoredTensor]] = [{} for _ in range(count)]
    total = max(1, sum(tensor.nbytes for tensor in stored.values()))
    before = 0
    for name, tensor in stored.items():
        parts[min(count - 1, before * count // total)][name] = tensor
        before += tensor.nbytes
    return parts


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of a C-contiguous array in views of at most 16 MiB."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _PIECE_BYTES):
        yield flat[start : start + _PIECE_BYTES]
