"""Transport ``host`` on one machine: against plain copies of the same bytes, and against readers of the disk."""

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

from benchmarks.peers import TORCH_FILE, Peer, available, read_sequentially
from yr_fastload_native import Config, FastLoader
from yr_fastload_native.checkpoints.page_cache import drop_page_cache
from yr_fastload_native.checkpoints.workloads import sizes_of
from yr_fastload_native.measuring.resources import private_worker, require_memory, touch_memory
from yr_fastload_native.measuring.statistics import SharedCopy, ratio, require_equal, seconds_of, spread
from yr_fastload_native.reporting.timeline import Span, breakdown

__all__ = ["measure"]

_COPIES = 9  # source, two in the worker, one in plain shared memory, two destinations, peers and the page cache
_SHARD_BYTES = 512 << 20
_OWN_THREADS = "own threads"
# Short beside the others, and what targets are about: of each round the median of three counts.
_FRESH, _LAYOUT = "pull, fresh memory", "pull, layout only"
_ALIASED, _ALIASED_LAYOUT = "pull, zero copy", "pull, zero copy, layout only"
_READ_ONCE = "every byte read once, own threads"
_THRICE = ("pull", "pull, layout only", f"memcpy, {_OWN_THREADS}")

Tensors = dict[str, torch.Tensor]


@attrs.frozen
class System:
    """What is measured.

    Attributes:
        destination: State of the memory that tensors end up in, as in `Peer`; ``none`` for a read without tensors.
        run: Returns its seconds.
    """

    destination: str
    run: Callable[[], float]


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
    """One workload: its tensors published twice (to be copied, and to be aliased), and written to disk."""

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
        """Tensors in untouched memory."""
        gc.collect()
        touch_memory(self.bytes)
        return {name: torch.empty_like(tensor) for name, tensor in self.source.items()}

    def check(self, got: Tensors) -> None:
        require_equal(_arrays(got), _arrays(self.source))

    def systems(self) -> dict[str, System]:
        """The systems; each runs once, compares every byte, and returns its seconds."""
        found = {
            "pull": System("touched", lambda: self._pull("pull", self._digest, self._poisoned())),
            _LAYOUT: System("touched", lambda: self._pull(_LAYOUT, self._layout, self._poisoned())),
            _FRESH: System("fresh", lambda: self._pull(_FRESH, self._digest, self.new())),
            "pull, new connection": System("fresh", self._connect_and_pull),
            _ALIASED_LAYOUT: System("mapped", lambda: self._alias(_ALIASED_LAYOUT, self._layout)),
            _ALIASED: System("mapped, read", lambda: self._alias(_ALIASED, self._digest)),
            "memcpy, 1 thread": System("touched", lambda: self._memcpy(self.touched, 1)),
            f"memcpy, {_OWN_THREADS}": System("touched", lambda: self._memcpy(self.touched, self.threads)),
            "memcpy, fresh memory": System("fresh", lambda: self._memcpy(self.new(), self.threads)),
            _READ_ONCE: System("mapped, read", lambda: self._shared.read_seconds(self.threads)),
            "disk, page cache dropped": System("none", lambda: self._disk(drop=True)),
            "disk, warm": System("none", lambda: self._disk(drop=False)),
        }
        for peer in available():
            name = peer.name if peer.destination == "fresh" else f"{peer.name}, {peer.destination}"
            found[f"{name}, warm"] = System(peer.destination, lambda peer=peer: self._read(peer))  # type: ignore[misc]
            found[f"{name}, page cache dropped"] = System(
                peer.destination,
                lambda peer=peer: self._read(peer, drop=True),  # type: ignore[misc]
            )
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
        """Pull with a new connection, which maps the worker's memory again."""
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

    def _disk(self, *, drop: bool) -> float:
        if drop:
            self._drop()
        return seconds_of(lambda: read_sequentially(self._folder))

    def _read(self, peer: Peer, *, drop: bool = False) -> float:
        gc.collect()
        target = self._poisoned() if peer.destination == "touched" else {}
        if drop:
            self._drop()
        if peer.destination == "fresh":
            touch_memory(self.bytes)
        got: list[Tensors] = []
        seconds = seconds_of(lambda: got.append(peer.read(self._folder, target)))
        self.check(got[0])
        return seconds


def measure(
    workload: str,
    scale: float,
    rounds: int,
    note: Callable[[str], None],
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> dict[str, Any]:
    """Time all systems in turn, every byte checked.

    Args:
        workload: As in `sizes_of`.
        scale: Likewise.
        rounds: Repetitions, after one that does not count.
        note: Called with each step, for progress.
        only: Names of systems to measure; all by default.
        without: Prefixes of names of systems to leave out.

    Returns:
        Seconds and destination by system, and the ratios that can be computed from them.
    """
    sizes = sizes_of(workload, scale)
    total = sum(sizes.values())
    require_memory(total, copies=_COPIES, op="bench")
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="yr-fastload-") as scratch, private_worker(2 * total) as worker:
        bench = _Bench(worker, sizes, Path(scratch))
        try:
            systems = {
                name: system
                for name, system in bench.systems().items()
                if (only is None or name in only) and not name.startswith(tuple(without))
            }
            for turn in range(rounds + 1):
                note(f"{workload}: round {turn} of {rounds}" if turn else f"{workload}: warming up")
                names = [*systems, *[name for name in _THRICE if name in systems] * 2]
                shift = turn % len(names)  # nobody always comes first
                took: dict[str, list[float]] = {}
                for name in names[shift:] + names[:shift]:
                    took.setdefault(name, []).append(systems[name].run())
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
        "destinations": {name: systems[name].destination for name in samples},
        "samples": samples,
        "breakdown": {name: breakdown(spans) for name, spans in bench.spans.items()},
        **_ratios(samples),
    }


def _fresh_peers() -> list[str]:
    return [peer.name for peer in available() if peer.destination == "fresh"]


def _ratios(samples: Mapping[str, list[float]]) -> dict[str, float]:
    own = f"memcpy, {_OWN_THREADS}"
    pairs = {
        "memcpy_share": (own, "pull"),
        "memcpy_share_fresh": ("memcpy, fresh memory", _FRESH),
        "layout_share": (_LAYOUT, "pull"),
        "zero_copy_share": ("pull", _ALIASED_LAYOUT),
        "touched_speedup": ("safetensors, touched, warm", "pull"),
        "fresh_speedup": ("safetensors, warm", _FRESH),
        "mapped_speedup": ("safetensors, mapped, warm", _ALIASED_LAYOUT),
        "mapped_read_speedup": ("safetensors, mapped, read, warm", _ALIASED),
        "read_once_share": (_READ_ONCE, _ALIASED),
    }
    found = {
        name: ratio(samples[above], samples[below])
        for name, (above, below) in pairs.items()
        if above in samples and below in samples
    }
    for state, key in (("warm", "best_warm_speedup"), ("page cache dropped", "best_cold_speedup")):
        rivals = [samples[f"{name}, {state}"] for name in _fresh_peers() if f"{name}, {state}" in samples]
        if rivals and _FRESH in samples:
            found[key] = ratio([min(each) for each in zip(*rivals, strict=True)], samples[_FRESH])
    if "layout_share" in found:
        found["digest_share"] = 1 - found.pop("layout_share")
    return found
