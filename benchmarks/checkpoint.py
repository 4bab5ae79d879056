"""A published checkpoint against its files: what the first instance and a rank of another parallel size wait for, and
what a tensor costs.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from yr_fastload_native import Config, FastLoader
from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.synthetic import make_qwen2
from yr_fastload_native.checkpoints.tensor_files import TensorFiles
from yr_fastload_native.measuring.resources import private_worker

__all__ = ["measure"]

_RANKS = 2
_SMALL_BYTES = 64
_POOL = "memfd:"  # how the worker's memory is named in a process's maps


def measure(size_mb: int, tensors: int, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Have an instance read all and publish it meanwhile, and a rank of two its half of every tensor, in turn.

    Args:
        size_mb: Of the checkpoint.
        tensors: How many small ones are iterated over.
        rounds: Repetitions.
        note: Says what goes on.

    Returns:
        Seconds and ratios, medians of the rounds' own; bytes of the pool that the rank touched; microseconds a tensor.
    """
    with tempfile.TemporaryDirectory(prefix="yr-fastload-") as scratch:
        note(f"making a checkpoint of {size_mb} MiB")
        directory = make_qwen2(Path(scratch) / "qwen2", size_mb=size_mb)
        with private_worker((2 * size_mb + 64) << 20) as worker:
            config = Config(worker=worker, hold=False)
            return {
                "size_mb": size_mb,
                "rounds": rounds,
                "first": _first(config, directory, rounds, note),
                "halves": _halves(config, directory, rounds, note),
                "iterated": _iterated(config, Path(scratch), tensors, rounds, note),
            }


def _first(config: Config, directory: Path, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    """All tensors into an instance's own memory, page cache dropped: from the files, and while they are published."""
    files = sorted(directory.glob("*.safetensors"))
    seconds: dict[str, list[float]] = {"read": [], "publishing": []}
    with FastLoader(config) as publisher, FastLoader(config) as reader, ThreadPoolExecutor(1) as pool:
        for turn in range(rounds):
            note(f"a checkpoint that is published while it is read: round {turn + 1} of {rounds}")
            _drop(files)
            took, wanted = _timed(lambda: _copied(_from_files(files)))
            seconds["read"].append(took)
            _drop(files)
            announced = threading.Event()
            started = time.perf_counter()
            sampled = TensorFiles.of(directory, deadline_s=config.deadline_s)  # once for both, as in vLLM
            publishing = pool.submit(publisher.publish_checkpoint, sampled, announced=announced.set)
            announced.wait(config.publish_deadline_s)
            opened = reader.checkpoint(sampled, framework="torch")
            mine = _copied(opened.items())
            seconds["publishing"].append(time.perf_counter() - started)
            publishing.result().close()
            assert not opened.from_files
            assert all(torch.equal(mine[name], tensor) for name, tensor in wanted.items())
            del opened, mine, wanted
            gc.collect()
    ratio = statistics.median(a / b for a, b in zip(seconds["publishing"], seconds["read"], strict=True))
    return {"seconds": {way: statistics.median(values) for way, values in seconds.items()}, "share_of_reading": ratio}


def _copied(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors}


def _halves(config: Config, directory: Path, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    files = sorted(directory.glob("*.safetensors"))
    seconds: dict[str, list[float]] = {"read_cold": [], "read_warm": [], "checkpoint": [], "publish": []}
    with FastLoader(config) as publisher, FastLoader(config) as reader:
        for turn in range(rounds):
            note(f"half of a checkpoint: round {turn + 1} of {rounds}")
            for way in ("read_cold", "read_warm"):
                if way == "read_cold":
                    _drop(files)
                took, wanted = _timed(lambda: _of_rank(_from_files(files)))
                seconds[way].append(took)
            _drop(files)
            with publisher.publish_checkpoint(directory) as publication:
                seconds["publish"].append(publication.seconds)
                opened = None
                before = _pool_bytes()
                started = time.perf_counter()
                opened = reader.checkpoint(directory, framework="torch")
                mine = _of_rank(opened.items())
                seconds["checkpoint"].append(time.perf_counter() - started)
                touched = _pool_bytes() - before
                assert not opened.from_files
            assert all(torch.equal(mine[name], tensor) for name, tensor in wanted.items())
            size = opened.bytes
            del opened, mine, wanted
            gc.collect()
    ratio = {
        way: statistics.median(a / b for a, b in zip(seconds[way], seconds["checkpoint"], strict=True))
        for way in ("read_cold", "read_warm")
    }
    return {
        "bytes": size,
        "touched_bytes": touched,
        "touched_share": touched / size,
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "cold_speedup": ratio["read_cold"],
        "warm_speedup": ratio["read_warm"],
    }


def _iterated(config: Config, scratch: Path, tensors: int, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    note(f"{tensors} tensors of {_SMALL_BYTES} bytes")
    directory = scratch / "small"
    directory.mkdir()
    made = {f"layers.{i}.weight": torch.full((_SMALL_BYTES,), i % 251, dtype=torch.uint8) for i in range(tensors)}
    save_file(made, directory / "model.safetensors")
    found: dict[str, Any] = {"tensors": tensors}
    with FastLoader(config) as publisher, FastLoader(config) as reader:
        publisher.publish_checkpoint(directory)
        for framework in ("numpy", "torch"):
            values = []
            for _ in range(rounds):
                opened = reader.checkpoint(directory, framework=framework)
                took, count = _timed(lambda opened=opened: sum(1 for _ in opened.items()))  # type: ignore[misc]
                assert count == tensors
                values.append(took / tensors * 1e6)
            found[f"{framework}_us"] = statistics.median(values)
    return found


def _drop(files: Iterable[Path]) -> None:
    for path in files:
        drop_page_cache(path)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _from_files(files: Iterable[Path]) -> Iterable[tuple[str, torch.Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


def _of_rank(tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The first half of every matrix, and vectors whole, in memory of the rank's own."""
    return {
        name: (tensor.narrow(0, 0, tensor.shape[0] // _RANKS) if tensor.dim() > 1 else tensor).clone()
        for name, tensor in tensors
    }


def _pool_bytes() -> int:
    """What this process has touched of the worker's memory by private mappings."""
    total = 0
    private = False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if "-" in line.split(" ", 1)[0]:
                private = _POOL in line and line.split()[1].endswith("p")
            elif private and line.startswith("Rss:"):
                total += int(line.split()[1]) << 10
    return total
