"""The SHA-256 of every tensor, wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from yr_fastload_native.weights.tensor_reader import Tensor
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["sums"]

_SLICE_BYTES = 16 << 20


def sums(table: TensorTable, threads: int, check: Callable[[], object]) -> list[str]:
    """The SHA-256 of the bytes of every tensor; empty for one that has none, or lies in another's memory.

    Args:
        table: The tensors.
        threads: That hash.
        check: Called now and then from these threads; raises to stop it.
    """
    own = [i for i, tensor in enumerate(table.tensors) if table.owner[i] == i and tensor.bytes]
    found = [""] * len(table.tensors)

    def take(index: int) -> None:
        sha = hashlib.sha256()
        for part in _parts(table.tensors[index]):
            check()
            sha.update(part)  # lets go of the GIL
        found[index] = sha.hexdigest()

    with ThreadPoolExecutor(max(1, threads), "yr-fastload-sha256") as pool:
        jobs = [pool.submit(take, i) for i in sorted(own, key=lambda i: -table.tensors[i].bytes)]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found


def _parts(tensor: Tensor) -> Iterable[Any]:
    """The memory that a tensor spans, a slice after the other, where the CPU can read it."""
    for start in range(0, tensor.bytes, _SLICE_BYTES):
        size = min(_SLICE_BYTES, tensor.bytes - start)
        yield tensor.device.kind.readable(tensor.device.index, tensor.address + start, size)
