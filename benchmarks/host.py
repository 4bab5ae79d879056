"""Transport ``host`` on one machine: against plain copies of the same bytes, and against those who read the disk."""

from __future__ import annotations

import gc
import statistics
import tempfile
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch

from benchmarks.peers import TORCH_FILE, available, read_sequentially
from yr_fastload_native import Config, FastLoader
from yr_fastload_native.checkpoint import drop_page_cache
from yr_fastload_native.cli.measuring import SharedCopy, ratio, require_equal, seconds_of, spread
from yr_fastload_native.cli.room import private_worker, require_memory, touch_memory
from yr_fastload_native.timeline import Span, breakdown
from yr_fastload_native.workloads import sizes_of

__all__ = ["measure"]

_COPIES = 9  # source, two in the worker, one in plain shared memory, two destinations, peers and the page cache
_SHARD_BYTES = 512 << 20
_OWN_THREADS = "own threads"
# Short beside the others, and what targets are about: of each round the median of three counts.
_THRICE = ("pull", "pull, layout only", f"memcpy, {_OWN_THREADS}")

Tensors = dict[str, torch.Tensor]


def _make(sizes: Mapping[str, int]) -> Tensors:
    random = np.random.default_rng(1)
    made = {}
    for name, size in sizes.items():
        words = random.integers(0, 1 << 16, max(1, size // 2), np.uint16)
        words &= 0xBFFF  # without the top bit of its exponent a bfloat16 is finite
        made[name] = torch.from_numpy(words.view(np.int16)).view(torch.bfloat16)
    return made


def _write(tensors: Tensors, folder: Path) -> None:
    from safetensors.torch import save_file

    shards: list[Tensors] = [{}]
    room = _SHARD_BYTES
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = _SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    for number, shard in enumerate(shards, 1):
        save_file(shard, folder / f"model-{number:05}-of-{len(shards):05}.safetensors")
    torch.save(tensors, folder / TORCH_FILE)


def _arrays(tensors: Tensors) -> dict[str, Any]:
    return {name: tensor.view(torch.int16).numpy() for name, tensor in tensors.items()}


class _Bench:
    """One workload: its tensors published twice (for those who copy, and for those who alias), and on the disk."""

    def __init__(self, worker: str, sizes: Mapping[str, int], folder: Path) -> None:
        self.source = _make(sizes)
        self.bytes = sum(tensor.nbytes for tensor in self.source.values())
        _write(self.source, folder)
        self._folder = folder
        self._shared = SharedCopy(_arrays(self.source))
        self.touched = {name: torch.zeros_like(tensor) for name, tensor in self.source.items()}
        config = Config(worker=worker, hold=False)
        self._publisher, self._aliased_publisher = FastLoader(config), FastLoader(attrs.evolve(config, zero_copy=True))
        self._copied, self._aliased = ({"bench": uuid.uuid4().hex} for _ in range(2))
        self.publish_s = self._publisher.publish(self.source, self._copied).seconds
        self._aliased_publisher.publish(self.source, self._aliased)
        self._digest = FastLoader(config)
        self._layout = FastLoader(attrs.evolve(config, verify="layout"))
        self.threads = self._digest.stats()["copy_threads"]
        self.spans: dict[str, list[Span]] = {}
        self.chunks = 0
        self.aliased_share = 0.0
        self._digest.load(self.touched, self._copied)  # maps the worker's memory into this process, once
        self._digest.load(self.new(), self._aliased, zero_copy=True)

    def close(self) -> None:
        for loader in (self._publisher, self._aliased_publisher, self._digest, self._layout):
            loader.close()

    def new(self) -> Tensors:
        """Tensors in memory that this process has not touched."""
        gc.collect()
        touch_memory(self.bytes)
        return {name: torch.empty_like(tensor) for name, tensor in self.source.items()}

    def check(self, got: Tensors) -> None:
        require_equal(_arrays(got), _arrays(self.source))

    def systems(self) -> dict[str, Callable[[], float]]:
        """Each runs once, compares every byte, and returns its seconds."""
        found: dict[str, Callable[[], float]] = {
            "pull": lambda: self._pull("pull", self._digest, self._poisoned()),
            "pull, layout only": lambda: self._pull("pull, layout only", self._layout, self._poisoned()),
            "pull, fresh memory": lambda: self._pull("pull, fresh memory", self._digest, self.new()),
            "pull, zero copy": lambda: self._alias("pull, zero copy", self._digest),
            "pull, zero copy, layout only": lambda: self._alias("pull, zero copy, layout only", self._layout),
            "pull, new connection": self._connect_and_pull,
            "memcpy, 1 thread": lambda: self._memcpy(self.touched, 1),
            f"memcpy, {_OWN_THREADS}": lambda: self._memcpy(self.touched, self.threads),
            "memcpy, fresh memory": lambda: self._memcpy(self.new(), self.threads),
            "disk": lambda: self._disk(read_sequentially),
        }
        for name, read in available().items():
            found[f"{name}, warm"] = lambda read=read: self._read(read)  # type: ignore[misc]
            found[f"{name}, page cache dropped"] = lambda read=read: self._read(read, drop=True)  # type: ignore[misc]
        return found

    def _poisoned(self) -> Tensors:
        for tensor in self.touched.values():
            tensor.view(torch.int16).fill_(0x5A5A)
        return self.touched

    def _pull(self, name: str, loader: FastLoader, target: Tensors) -> float:
        report = loader.load(target, self._copied)
        self.spans[name], self.chunks = list(report.spans), report.chunks
        self.check(target)
        return report.seconds

    def _alias(self, name: str, loader: FastLoader) -> float:
        target = self.new()
        report = loader.load(target, self._aliased, zero_copy=True)
        self.aliased_share = report.bytes_aliased / report.bytes
        self.spans[name] = list(report.spans)
        self.check(target)
        return report.seconds

    def _connect_and_pull(self) -> float:
        """With a new connection, which maps the worker's memory anew."""
        target = self.new()

        def pull() -> None:
            with FastLoader(self._digest.config) as loader:
                loader.load(target, self._copied)

        seconds = seconds_of(pull)
        self.check(target)
        return seconds

    def _memcpy(self, target: Tensors, threads: int) -> float:
        seconds = self._shared.memcpy_seconds(_arrays(target), threads)
        self.check(target)
        return seconds

    def _drop(self) -> None:
        for file in self._folder.iterdir():
            drop_page_cache(file)

    def _disk(self, read: Callable[[Path], None]) -> float:
        self._drop()
        return seconds_of(lambda: read(self._folder))

    def _read(self, read: Callable[[Path], Tensors], *, drop: bool = False) -> float:
        gc.collect()
        if drop:
            self._drop()
        touch_memory(self.bytes)
        got: list[Tensors] = []
        seconds = seconds_of(lambda: got.append(read(self._folder)))
        self.check(got[0])
        return seconds


def measure(
    workload: str, scale: float, rounds: int, note: Callable[[str], None], only: Collection[str] | None = None
) -> dict[str, Any]:
    """Time all systems in turn, every byte checked.

    Args:
        workload: As in `sizes_of`.
        scale: Likewise.
        rounds: Repetitions; one more comes first and does not count.
        note: Says what goes on.
        only: Names of systems, if not all are wanted.

    Returns:
        Seconds by system, and those ratios that the systems allow.
    """
    sizes = sizes_of(workload, scale)
    total = sum(sizes.values())
    require_memory(total, copies=_COPIES, op="bench")
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="yr-fastload-") as scratch, private_worker(2 * total) as worker:
        bench = _Bench(worker, sizes, Path(scratch))
        try:
            systems = {name: run for name, run in bench.systems().items() if only is None or name in only}
            for turn in range(rounds + 1):
                note(f"{workload}: round {turn} of {rounds}" if turn else f"{workload}: warming up")
                names = [*systems, *[name for name in _THRICE if name in systems] * 2]
                shift = turn % len(names)  # nobody always comes first
                took: dict[str, list[float]] = {}
                for name in names[shift:] + names[:shift]:
                    took.setdefault(name, []).append(systems[name]())
                if turn:
                    for name, seconds in took.items():
                        samples.setdefault(name, []).append(statistics.median(seconds))
        finally:
            bench.close()
    return {
        "workload": workload,
        "scale": scale,
        "bytes": bench.bytes,
        "tensors": len(sizes),
        "chunks": bench.chunks,
        "threads": bench.threads,
        "rounds": rounds,
        "verified": True,
        "publish_s": bench.publish_s,
        "aliased_share": bench.aliased_share,
        "seconds": {name: spread(values) for name, values in samples.items()},
        "samples": samples,
        "breakdown": {name: breakdown(spans) for name, spans in bench.spans.items()},
        **_ratios(samples),
    }


def _ratios(samples: Mapping[str, list[float]]) -> dict[str, float]:
    pairs = {
        "memcpy_share": (f"memcpy, {_OWN_THREADS}", "pull"),
        "memcpy_share_fresh": ("memcpy, fresh memory", "pull, fresh memory"),
        "layout_share": ("pull, layout only", "pull"),
        "zero_copy_share": ("pull", "pull, zero copy, layout only"),
        "zero_copy_speedup": ("safetensors, warm", "pull, zero copy"),
        "zero_copy_layout_speedup": ("safetensors, warm", "pull, zero copy, layout only"),
    }
    found = {
        name: ratio(samples[above], samples[below])
        for name, (above, below) in pairs.items()
        if above in samples and below in samples
    }
    if "layout_share" in found:
        found["digest_share"] = 1 - found.pop("layout_share")
    return found
