"""How fast weights come into a GPU, against what the link does with the same bytes in one piece."""

from __future__ import annotations

import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from yr_fastload_native import Config, FastLoader
from yr_fastload_native.checkpoints.workloads import shapes_of
from yr_fastload_native.measuring.resources import private_worker

__all__ = ["Budget", "Note", "large", "seconds_of", "small", "transfer_seconds"]

_QWEN = "qwen2.5-7b"
_QWEN_BYTES = 15_231_233_024
_THREADS = (4, 8, 12, 16)
_LOCKING_S = 20.0
_SMALL = 10_000
_SMALL_BYTES = 4096

Note = Callable[[str], None]


@attrs.frozen
class Budget:
    """Until when there is time for one more round."""

    end: float

    def allows(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self.end


def seconds_of(function: Callable[[], object]) -> float:
    """Until the GPU is done too."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _random_like(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    made = {name: torch.empty(shape, dtype=torch.bfloat16, device="cuda") for name, shape in shapes.items()}
    for tensor in made.values():
        tensor.view(torch.int16).random_(-(1 << 15), 1 << 15)
    return made


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name].view(torch.int16), tensor.view(torch.int16)) for name, tensor in other.items())


def _poison(tensors: Mapping[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.view(torch.int16).fill_(-1)


def _medians(rounds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in rounds.items() if values}


def large(found: dict[str, Any], total: int, rounds: int, budget: Budget, note: Note) -> None:
    """339 tensors of Qwen2.5-7B's shapes, scaled."""
    shapes = shapes_of(_QWEN, total / _QWEN_BYTES)
    weights = _random_like(shapes)
    target = {name: torch.empty_like(tensor) for name, tensor in weights.items()}
    size = sum(tensor.nbytes for tensor in weights.values())
    pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    flat = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda")
    pinned.copy_(flat)
    taken: dict[str, list[float]] = {"one_piece": [], "pull": [], "pull_without_digest": []}
    found |= {"bytes": size, "tensors": len(weights)}
    identity = {"bench": uuid.uuid4().hex}
    with private_worker(size) as worker:
        config = Config(worker=worker, hold=False, deadline_s=120)
        with (
            FastLoader(config) as publisher,
            FastLoader(config) as loader,
            FastLoader(attrs.evolve(config, verify="layout")) as trusting,
        ):
            _poison(target)
            assert not _equal(weights, target)  # torch's own memory and kernels are there from here on
            free = torch.cuda.mem_get_info()[0]
            found["publish_s"] = seconds_of(lambda: publisher.publish(weights, identity))
            note(f"published {size / 1e9:.1f} GB in {found['publish_s']:.2f} s")
            found["first_pull_s"] = seconds_of(lambda: loader.load(target, identity))
            found["extra_device_bytes"] = free - torch.cuda.mem_get_info()[0]
            assert _equal(weights, target)
            trusting.load(target, identity)
            for turn in range(rounds):
                if not budget.allows(20):
                    break
                taken["one_piece"].append(seconds_of(lambda: flat.copy_(pinned, non_blocking=True)))
                _poison(target)
                taken["pull"].append(seconds_of(lambda: loader.load(target, identity)))
                assert _equal(weights, target), turn
                taken["pull_without_digest"].append(seconds_of(lambda: trusting.load(target, identity)))
            found["rounds"] = taken
            found["medians"] = medians = _medians(taken)
            report = loader.load(target, identity)
            found["stages"] = dict(report.stages)
            found["share_of_one_piece"] = medians["one_piece"] / medians["pull"]
            found["digest_share"] = 1 - medians["pull_without_digest"] / medians["pull"]
            note(f"{size / 1e9:.1f} GB: {medians}")
            found["pull_s_by_threads"] = {
                threads: _by_threads(attrs.evolve(config, copy_threads=threads), target, identity, rounds)
                for threads in _THREADS
            }
            found["from_pool"] = _from_pool(attrs.evolve(config, pin="pool"), target, identity, rounds, budget)
            if found["from_pool"]:
                found["from_pool"]["share_of_one_piece"] = medians["one_piece"] / found["from_pool"]["pull_s"]
                note(f"from locked shared memory: {found['from_pool']}")
            found["safetensors"] = _safetensors(weights, rounds, budget, note)
            if found["safetensors"]:
                found["over_safetensors"] = found["safetensors"]["warm_s"] / medians["pull"]


def _by_threads(config: Config, target: Mapping[str, torch.Tensor], identity: Mapping[str, str], rounds: int) -> float:
    """Median of pulls with so many copying threads, the first left out."""
    with FastLoader(config) as loader:
        taken = [seconds_of(lambda: loader.load(target, identity)) for _ in range(rounds + 1)]
    return statistics.median(taken[1:])


def _from_pool(
    config: Config, target: Mapping[str, torch.Tensor], identity: Mapping[str, str], rounds: int, budget: Budget
) -> dict[str, Any]:
    """Pulls from shared memory that the first of them has had page-locked where it lies."""
    if not budget.allows(40):
        return {}
    size = sum(tensor.nbytes for tensor in target.values())
    with FastLoader(config) as loader:
        first = seconds_of(lambda: loader.load(target, identity))
        started = time.perf_counter()
        while (locked := _locked_bytes(loader)) < size and time.perf_counter() < started + _LOCKING_S:
            time.sleep(0.01)
        locking = time.perf_counter() - started
        _poison(target)
        taken = [seconds_of(lambda: loader.load(target, identity)) for _ in range(rounds)]
    return {
        "first_pull_s": first,
        "locked_bytes": locked,
        "locking_s": locking,
        "rounds": taken,
        "pull_s": statistics.median(taken),
    }


def _locked_bytes(loader: FastLoader) -> int:
    return sum(device["pool"]["locked_bytes"] for device in loader.stats()["devices"].values())


def _safetensors(weights: Mapping[str, torch.Tensor], rounds: int, budget: Budget, note: Note) -> dict[str, Any]:
    """Its own loader straight into the GPU, page cache warm."""
    try:
        from safetensors.torch import load_file, save_file
    except ImportError:
        note("no safetensors here: left out")
        return {}
    if not budget.allows(60):
        note("no time for safetensors")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: tensor.cpu() for name, tensor in weights.items()}, path)
        taken = []
        load_file(path, device="cuda")  # warms the page cache
        for _ in range(min(3, rounds)):
            if not budget.allows(20):
                break
            torch.cuda.empty_cache()
            taken.append(seconds_of(lambda: load_file(path, device="cuda")))
    torch.cuda.empty_cache()
    return {"rounds": taken, "warm_s": statistics.median(taken)} if taken else {}


def small(rounds: int, budget: Budget, note: Note) -> dict[str, Any]:
    """10,000 tensors of 4 KiB, against ``copy_`` one by one from page-locked memory."""
    count = _SMALL_BYTES // 2
    weights = _random_like({f"t.{i}": (count,) for i in range(_SMALL)})
    # In no order of addresses, as of a model whose small tensors lie among large ones.
    pool = torch.empty(2 * _SMALL, count, dtype=torch.bfloat16, device="cuda")
    apart = {f"t.{i}": pool[2 * i].clone() for i in torch.randperm(_SMALL).tolist()}
    target = {name: apart[name] for name in weights}
    block = torch.empty(_SMALL, count, dtype=torch.bfloat16, pin_memory=True)
    pinned = {name: block[i] for i, name in enumerate(weights)}
    for name, tensor in weights.items():
        pinned[name].copy_(tensor)
    taken: dict[str, list[float]] = {"one_by_one": [], "one_by_one_not_waiting": [], "pull": [], "transfer": []}
    identity = {"bench": uuid.uuid4().hex}

    def one_by_one(wait: bool) -> None:
        for name, tensor in target.items():
            tensor.copy_(pinned[name], non_blocking=not wait)

    with private_worker(_SMALL * _SMALL_BYTES * 2) as worker, FastLoader(Config(worker=worker, hold=False)) as loader:
        loader.publish(weights, identity)
        for turn in range(rounds + 1):
            if not budget.allows(5):
                break
            _poison(target)
            torch.cuda.synchronize()
            started = time.perf_counter()
            report = loader.load(target, identity)
            seconds = time.perf_counter() - started
            assert _equal(weights, target)
            by_hand = seconds_of(lambda: one_by_one(True))
            not_waiting = seconds_of(lambda: one_by_one(False))
            if turn:
                taken["pull"].append(seconds)
                taken["transfer"].append(transfer_seconds(report.spans))
                taken["one_by_one"].append(by_hand)
                taken["one_by_one_not_waiting"].append(not_waiting)
        stages = dict(report.stages)
    medians = _medians(taken)
    note(f"10,000 x 4 KiB: {medians}")
    return {
        "tensors": _SMALL,
        "bytes": _SMALL * _SMALL_BYTES,
        "rounds": taken,
        "medians": medians,
        "stages": stages,
        "over_one_by_one": medians["one_by_one"] / medians["pull"],
        "transfer_over_one_by_one": medians["one_by_one"] / medians["transfer"],
    }


def transfer_seconds(spans: Any) -> float:
    """Seconds from the first fetch to the last copy."""
    moved = [span for span in spans if span.stage in ("fetch", "copy")]
    return float(max(span.begin_s + span.seconds for span in moved) - min(span.begin_s for span in moved))
