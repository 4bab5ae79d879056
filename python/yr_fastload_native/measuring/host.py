"""Measurements behind ``yr-fastload bench --transport host``.

Everything is timed in one run and in turn (pull, memcpy, disk, pull, memcpy, disk, ...), because machines are shared
and their speed drifts: only ratios within a run mean something.
"""

from __future__ import annotations

import gc
import statistics
import uuid
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yr_fastload_native import _core
from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.read_directory import read_directory
from yr_fastload_native.checkpoints.safetensors_files import scan_directory
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.measuring.resources import touch_memory
from yr_fastload_native.measuring.statistics import SharedCopy, ratio, require_equal, seconds_of, spread
from yr_fastload_native.reporting.timeline import Span, breakdown, write_trace
from yr_fastload_native.settings import Config
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.selection import chunk_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[Any]]

__all__ = ["measure_fixed_cost", "measure_transfer"]

_SMALL_TENSORS = 10_000
_SMALL_BYTES = 4096


def _disk_reader() -> tuple[str, Callable[[Path], object]]:
    """What puts a checkpoint from disk into memory of its own here.

    `load_file` maps the files and reads nothing yet; a framework then copies into its parameters, and so does this.
    """
    try:
        from safetensors.torch import load_file
    except ImportError:
        return "yr_fastload_native.checkpoints.read_directory.read_directory (no torch here)", read_directory

    def read(model: Path) -> object:
        return [tensor.clone() for file in sorted(model.glob("*.safetensors")) for tensor in load_file(file).values()]

    return "safetensors.torch.load_file and a copy of each tensor", read


def measure_transfer(
    worker: str, model: Path, rounds: int, note: Callable[[str], None], trace: Path | None
) -> dict[str, Any]:
    """Publish a checkpoint, then time pulls, plain copies and loads from disk against each other.

    Args:
        worker: Address of the worker.
        model: Directory of the checkpoint.
        rounds: Repetitions.
        note: Says what goes on.
        trace: File for a trace of the last pulls.

    Raises:
        IntegrityError: A pull gave other bytes than were published.
    """
    stored = scan_directory(model)
    source = read_directory(model)
    shared = SharedCopy(source)
    touched = {name: np.zeros_like(value) for name, value in source.items()}
    reader_name, read = _disk_reader()
    total = sum(tensor.nbytes for tensor in stored.values())
    samples: dict[str, list[float]] = {
        key: [] for key in ("load_fresh", "load_touched", "memcpy_fresh", "memcpy_touched", "disk_warm", "disk_cold")
    }
    identity = {"source": "bench", "run": uuid.uuid4().hex}
    config = Config(worker=worker)
    fresh_spans: list[Span] = []
    with FastLoader(config) as publisher, FastLoader(config) as loader:
        threads = loader.stats()["copy_threads"]
        publication = publisher.publish(source, identity)
        loader.load(touched, identity)  # maps the worker's memory into this process, once

        def new_arrays() -> Arrays:
            touch_memory(total)
            return {name: tensor.allocate() for name, tensor in stored.items()}

        def pull_fresh() -> None:
            fresh = new_arrays()
            report = loader.load(fresh, identity)
            samples["load_fresh"].append(report.seconds)
            fresh_spans[:] = report.spans
            require_equal(fresh, source)

        def copy_fresh() -> None:
            samples["memcpy_fresh"].append(shared.memcpy_seconds(new_arrays(), threads))

        for turn in range(rounds):
            note(f"round {turn + 1} of {rounds}")
            fresh_steps = [pull_fresh, copy_fresh]
            for step in fresh_steps[:: 1 if turn % 2 else -1]:  # neither is always the first to use new memory
                step()
            for value in touched.values():
                value.reshape(-1).view(np.uint8)[:] = 0xA5
            report = loader.load(touched, identity)
            samples["load_touched"].append(report.seconds)
            require_equal(touched, source)
            samples["memcpy_touched"].append(shared.memcpy_seconds(touched, threads))
            gc.collect()
            touch_memory(total)
            samples["disk_warm"].append(seconds_of(lambda: read(model)))
            for file in model.glob("*.safetensors"):
                drop_page_cache(file)
            touch_memory(total)
            samples["disk_cold"].append(seconds_of(lambda: read(model)))
    timing = {key: spread(values) for key, values in samples.items()}
    median = {key: values["median"] for key, values in timing.items()}
    record = {
        "transport": report.transport,
        "bytes": report.bytes,
        "tensors": report.tensors,
        "chunks": report.chunks,
        "copy_threads": threads,
        "rounds": rounds,
        "publish_s": publication.seconds,
        "load_s": median["load_touched"],
        "load_gib_per_s": report.bytes / (1 << 30) / median["load_touched"],
        "memcpy_gib_per_s": report.bytes / (1 << 30) / median["memcpy_touched"],
        "memcpy_share_touched": ratio(samples["memcpy_touched"], samples["load_touched"]),
        "memcpy_share_fresh": ratio(samples["memcpy_fresh"], samples["load_fresh"]),
        "disk_reader": reader_name,
        "speedup_cold": ratio(samples["disk_cold"], samples["load_fresh"]),
        "speedup_warm": ratio(samples["disk_warm"], samples["load_fresh"]),
        "seconds": timing,
        "breakdown": breakdown(report.spans),
        "verified": True,
    }
    if trace is not None:
        write_trace(trace, [("pull into touched memory", report.spans), ("pull into fresh memory", fresh_spans)])
    return record


def measure_fixed_cost(worker: str, rounds: int) -> dict[str, Any]:
    """Time what does not depend on bytes: 10,000 tensors of 4 KiB."""
    source = {f"p.{i}": np.full(_SMALL_BYTES, i % 251, np.uint8) for i in range(_SMALL_TENSORS)}
    target = {name: np.zeros_like(value) for name, value in source.items()}
    sizes = array("Q", [_SMALL_BYTES] * _SMALL_TENSORS)
    config = Config(worker=worker)
    most = chunk_bytes(config, registry.named(["host"]), _SMALL_BYTES)
    plan, publish, load = [], [], []
    with FastLoader(config) as publisher, FastLoader(config) as loader:
        for _ in range(rounds):
            identity = {"source": "bench", "run": uuid.uuid4().hex}
            plan.append(seconds_of(lambda: _core.make_plan(sizes, chunk_bytes=most, max_blobs=config.max_blobs)))
            with publisher.publish(source, identity) as publication:
                publish.append(publication.seconds)
                load.append(loader.load(target, identity).seconds)
            require_equal(target, source)
    return {
        "tensors": _SMALL_TENSORS,
        "tensor_bytes": _SMALL_BYTES,
        "plan_s": statistics.median(plan),
        "publish_s": statistics.median(publish),
        "load_s": statistics.median(load),
    }
