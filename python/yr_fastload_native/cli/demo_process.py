"""The two processes of ``yr-fastload demo``."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import time
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from yr_fastload_native.checkpoint import StoredTensor, compare, drop_page_cache, read_directory, scan_directory
from yr_fastload_native.cli.child import Parent, main
from yr_fastload_native.cli.room import touch_memory
from yr_fastload_native.config import Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yr_fastload_native.loader import FastLoader

__all__ = ["Task"]

_GIB = 1 << 30


@attrs.frozen(kw_only=True)
class Task:
    """What a process is to do; the same for both, but for their devices.

    Attributes:
        device: Number of the NPU that it uses, if the transport has some.
    """

    directory: str
    worker: str
    transport: str
    identity: dict[str, str]
    deadline_s: float
    progress: bool
    device: int = 0


def _source(task: Task, parent: Parent) -> None:
    """Load from a cold and from a warm page cache, into fresh memory both times, then publish until told to end."""
    progress = parent.send_progress if task.progress else None
    with _loader(task) as loader:
        stored = scan_directory(task.directory)
        total = sum(tensor.nbytes for tensor in stored.values())
        touch_memory(2 * total)
        cached_bytes = sum(drop_page_cache(path) for path in {tensor.path for tensor in stored.values()})
        start = time.perf_counter()
        arrays = read_directory(task.directory, progress=progress)
        parent.send("cold", seconds=time.perf_counter() - start, cached_bytes=cached_bytes)
        del arrays
        _give_back_memory()
        touch_memory(total)
        start = time.perf_counter()
        arrays = read_directory(task.directory, progress=progress)
        parent.send("warm", seconds=time.perf_counter() - start)
        touch_memory(total)
        start = time.perf_counter()
        with contextlib.closing(loader.publish(arrays, task.identity, progress=progress)):
            parent.send("published", seconds=time.perf_counter() - start)
            parent.wait()


def _reader(task: Task, parent: Parent) -> None:
    """Pull into tensors of its own and compare them with the files; measure memcpy once the source has gone."""
    with _loader(task) as loader:
        stored = scan_directory(task.directory)
        total = sum(tensor.nbytes for tensor in stored.values())
        touch_memory(total)
        arrays = {name: tensor.allocate() for name, tensor in stored.items()}
        start = time.perf_counter()
        report = loader.load(arrays, task.identity, progress=parent.send_progress if task.progress else None)
        seconds = time.perf_counter() - start
        threads = int(loader.stats()["copy_threads"])
        parent.send("pulled")
        parent.send(
            "compared",
            seconds=seconds,
            transport=report.transport,
            bytes=report.bytes,
            tensors=report.tensors,
            chunks=report.chunks,
            stages=dict(report.stages),
            copy_threads=threads,
            differing=compare(stored, arrays),
        )
        parent.wait()
        parent.send("memcpy", gib_per_s=_memcpy_gib_per_s(stored, arrays, threads))


_ROLES = {"source": _source, "reader": _reader}


def _loader(task: Task) -> FastLoader:
    from yr_fastload_native.loader import FastLoader

    config = Config(
        worker=task.worker,
        transport=task.transport,
        device_index=task.device if task.transport in ("d2d", "staged") else -1,
        deadline_s=task.deadline_s,
        publish_deadline_s=task.deadline_s,
        hold=False,
    )
    return FastLoader(config)


def _give_back_memory() -> None:
    """Return what was freed to the kernel: malloc keeps some, and reusing it would spare the next step page faults."""
    ctypes.CDLL(None).malloc_trim(0)


def _memcpy_gib_per_s(stored: dict[str, StoredTensor], arrays: dict[str, NDArray[Any]], threads: int) -> float:
    """The best of three copies from the pulled tensors to others, both warm."""
    from yr_fastload_native import _core

    pairs = [(arrays[name], tensor.allocate()) for name, tensor in stored.items() if tensor.nbytes]
    for _, destination in pairs:
        destination.reshape(-1).view(np.uint8).fill(0)
    destinations = array("Q", [destination.ctypes.data for _, destination in pairs])
    sources = array("Q", [source.ctypes.data for source, _ in pairs])
    sizes = array("Q", [source.nbytes for source, _ in pairs])
    seconds = min(_core.memcpy_seconds(destinations, sources, sizes, threads) for _ in range(3))
    return sum(sizes) / _GIB / seconds


def _act(role: Callable[[Task, Parent], None], task: dict[str, Any], parent: Parent) -> None:
    role(Task(**task), parent)


if __name__ == "__main__":
    main({role: functools.partial(_act, act) for role, act in _ROLES.items()})
