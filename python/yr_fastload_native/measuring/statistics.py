"""What measurements share: rounds that cancel the drift of a machine, plain copies, and a look at every byte."""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import time
from array import array
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from yr_fastload_native import _core
from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.process.versions import installed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

__all__ = ["SharedCopy", "machine", "ratio", "require_equal", "seconds_of", "spread"]


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(samples: Iterable[float]) -> dict[str, float]:
    values = sorted(samples)
    return {"median": statistics.median(values), "min": values[0], "max": values[-1]}


def ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """Median of the ratios of each round: what drifts between rounds cancels."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def require_equal(got: Arrays, wanted: Arrays) -> None:
    for name, array_ in wanted.items():
        if not np.array_equal(got[name].view(np.uint8), array_.view(np.uint8)):
            raise IntegrityError(f"tensor {name!r} differs from what was published", op="bench", failed_keys=[name])


class SharedCopy:
    """The same bytes in shared memory of this process: what a pull reads, without openYuanrong around it."""

    def __init__(self, arrays: Arrays) -> None:
        self._sizes = [value.nbytes for value in arrays.values()]
        descriptor = os.memfd_create("yr-fastload-bench")
        try:
            os.truncate(descriptor, max(1, sum(self._sizes)))
            self._memory = mmap.mmap(descriptor, max(1, sum(self._sizes)))
        finally:
            os.close(descriptor)
        self._whole = np.frombuffer(self._memory, np.uint8)
        offset = 0
        for value in arrays.values():
            self._whole[offset : offset + value.nbytes] = value.reshape(-1).view(np.uint8)
            offset += value.nbytes

    def memcpy_seconds(self, target: Arrays, threads: int) -> float:
        base = self._whole.ctypes.data
        sources = array("Q", [0] * len(self._sizes))
        for i, size in enumerate(self._sizes):
            sources[i] = base
            base += size
        destinations = array("Q", [value.ctypes.data for value in target.values()])
        return _core.memcpy_seconds(destinations, sources, array("Q", self._sizes), threads)

    def read_seconds(self, threads: int) -> float:
        """Of adding up all bytes once: what memory allows whoever looks at each of them."""
        words = self._whole[: self._whole.size // 8 * 8].view(np.uint64)
        with ThreadPoolExecutor(threads) as pool:
            return seconds_of(lambda: list(pool.map(np.add.reduce, np.array_split(words, threads))))


def machine() -> dict[str, Any]:
    """What a figure has to be read with."""
    names = ("yr-fastload-native", "openyuanrong-datasystem", "torch", "safetensors", "numpy")
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in names},
    }
