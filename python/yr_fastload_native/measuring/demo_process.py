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

from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.read_directory import compare, read_directory
from yr_fastload_native.checkpoints.safetensors_files import StoredTensor, scan_directory
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.measuring.child_process import Parent, main
from yr_fastload_native.measuring.device_arrays import DeviceArray, allocate, upload
from yr_fastload_native.measuring.resources import touch_memory
from yr_fastload_native.settings import Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yr_fastload_native.loader.fast_loader import FastLoader

__all__ = ["Task"]


@attrs.frozen(kw_only=True)
class Task:
    """What a process is to do; the same for both, but for their devices.

    Attributes:
        rounds: How often each load is measured.
        device: Number of the NPU that it uses, if the transport has some.
    """

    directory: str
    worker: str
    transport: str
    identity: dict[str, str]
    deadline_s: float
    progress: bool
    rounds: int
    device: int = 0


def _source(task: Task, parent: Parent) -> None:
    """Load from a cold and from a warm page cache in turn, into fresh memory each time; then publish until told to end.

    As many threads read as copy in a pull.
    """
    progress = parent.send_progress if task.progress else None
    with _loader(task) as loader:
        threads = int(loader.stats()["copy_threads"])
        stored = scan_directory(task.directory)
        total = sum(tensor.nbytes for tensor in stored.values())
        tensors: dict[str, Any] = {}
        for _ in range(task.rounds):
            for kind in ("cold", "warm"):
                tensors.clear()
                _give_back_memory()
                cached_bytes = _drop_page_cache(stored) if kind == "cold" else 0
                touch_memory(total)
                start = time.perf_counter()
                tensors = _placed(task, read_directory(task.directory, progress=progress, threads=threads))
                parent.send(kind, seconds=time.perf_counter() - start, cached_bytes=cached_bytes)
        touch_memory(total)
        start = time.perf_counter()
        with contextlib.closing(loader.publish(tensors, task.identity, progress=progress)):
            parent.send("published", seconds=time.perf_counter() - start)
            parent.wait()


def _drop_page_cache(stored: dict[str, StoredTensor]) -> int:
    return sum(drop_page_cache(path) for path in {tensor.path for tensor in stored.values()})


def _reader(task: Task, parent: Parent) -> None:
    """Pull into fresh tensors, each time with a new connection, and compare them with the files.

    Once the source has gone, measure memcpy.
    """
    stored = scan_directory(task.directory)
    total = sum(tensor.nbytes for tensor in stored.values())
    arrays: dict[str, NDArray[Any]] = {}
    for _ in range(task.rounds):
        with _loader(task) as loader:
            arrays.clear()
            _give_back_memory()
            touch_memory(total)
            arrays = {name: tensor.allocate() for name, tensor in stored.items()}
            tensors = _blank(task, arrays)
            start = time.perf_counter()
            report = loader.load(tensors, task.identity, progress=parent.send_progress if task.progress else None)
            seconds = time.perf_counter() - start
            threads = int(loader.stats()["copy_threads"])
        parent.send("pulled")
        arrays = _fetched(tensors)
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
    fresh_s, touched_s = _memcpy_seconds(stored, arrays, threads, task.rounds)
    parent.send("memcpy", fresh_s=fresh_s, touched_s=touched_s)


_ROLES = {"source": _source, "reader": _reader}


def _loader(task: Task) -> FastLoader:
    from yr_fastload_native.loader.fast_loader import FastLoader

    config = Config(
        worker=task.worker,
        transport=task.transport,
        device_index=task.device if _on_devices(task) else -1,
        deadline_s=task.deadline_s,
        publish_deadline_s=task.deadline_s,
        hold=False,
    )
    return FastLoader(config)


def _on_devices(task: Task) -> bool:
    return task.transport in ("d2d", "staged")


def _placed(task: Task, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """The same bytes where the transport takes them from: in the memory of a device, or where they are."""
    return dict(upload(NPU.at(task.device), arrays)) if _on_devices(task) else dict(arrays)


def _blank(task: Task, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Tensors of the same layout where the transport brings bytes to."""
    return dict(allocate(NPU.at(task.device), arrays)) if _on_devices(task) else dict(arrays)


def _fetched(tensors: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """The tensors where the CPU can compare them."""
    return {name: each.numpy() if isinstance(each, DeviceArray) else each for name, each in tensors.items()}


def _give_back_memory() -> None:
    """Return what was freed to the kernel: malloc keeps some, and reusing it would spare the next step page faults."""
    ctypes.CDLL(None).malloc_trim(0)


def _memcpy_seconds(
    stored: dict[str, StoredTensor], arrays: dict[str, NDArray[Any]], threads: int, rounds: int
) -> tuple[list[float], float]:
    """Of copies from the pulled tensors into fresh ones, and the best of those into ones that are in use."""
    from yr_fastload_native import _core

    def copy_s(destinations: dict[str, NDArray[Any]]) -> float:
        there = array("Q", [each.ctypes.data for each in destinations.values()])
        here = array("Q", [arrays[name].ctypes.data for name in destinations])
        sizes = array("Q", [each.nbytes for each in destinations.values()])
        return _core.memcpy_seconds(there, here, sizes, threads)

    fresh_s = []
    moving = {name: tensor for name, tensor in stored.items() if tensor.nbytes}
    destinations: dict[str, NDArray[Any]] = {}
    for _ in range(rounds):
        destinations.clear()
        _give_back_memory()
        touch_memory(sum(tensor.nbytes for tensor in moving.values()))
        destinations = {name: tensor.allocate() for name, tensor in moving.items()}
        fresh_s.append(copy_s(destinations))
    return fresh_s, min(copy_s(destinations) for _ in range(3))


def _act(role: Callable[[Task, Parent], None], task: dict[str, Any], parent: Parent) -> None:
    role(Task(**task), parent)


if __name__ == "__main__":
    main({role: functools.partial(_act, act) for role, act in _ROLES.items()})
