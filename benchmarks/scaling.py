"""How a load scales with readers, bytes and tensors, and how the chunk size matters."""

from __future__ import annotations

import contextlib
import statistics
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch

from benchmarks.overhead import measure_tensors
from yr_fastload_native import Config, FastLoader
from yr_fastload_native.checkpoints.workloads import sizes_of
from yr_fastload_native.measuring.device import measure as measure_devices
from yr_fastload_native.measuring.device import measure_fan_out
from yr_fastload_native.measuring.device_process import Plan
from yr_fastload_native.measuring.resources import device_environment, private_worker, require_memory
from yr_fastload_native.measuring.statistics import SharedCopy, ratio, spread

__all__ = ["measure"]

READERS = (1, 2, 4, 8)
GIB = (0.25, 0.5, 1.0, 2.0)
TENSORS = (100, 1000, 10_000, 50_000)
CHUNK_MIB = (1, 8, 32, 128, 256)

_MODEL = "qwen2.5-7b"
_MODEL_GIB = sum(sizes_of(_MODEL, 1.0).values()) / (1 << 30)
_MIB = 1 << 20
_DEADLINE_S = 120.0
_FILL = 0x5A

Note = Callable[[str], None]


def _plan(gib: float, chunk_bytes: int = 0) -> Plan:
    return Plan(
        worker="",
        transport="d2d",
        shapes=_MODEL,
        scale=gib / _MODEL_GIB,
        deadline_s=_DEADLINE_S,
        chunk_bytes=chunk_bytes,
    )


def _readers(gib: float, rounds: int, note: Note) -> list[dict[str, Any]]:
    plan = _plan(gib)
    require_memory(sum(plan.sizes().values()), copies=3 + 2 * max(READERS), op="bench")
    environment, _ = device_environment("d2d")
    with private_worker(0) as worker:
        return measure_fan_out(plan.at(worker), READERS, rounds, environment=environment, note=note)


def _arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _by_host(gib: float, chunk_bytes: Sequence[int], rounds: int, note: Note) -> list[dict[str, Any]]:
    """Pulls of the same tensors, published with each size of chunk, and plain copies of them; every byte compared."""
    sizes = sizes_of(_MODEL, gib / _MODEL_GIB)
    total = sum(sizes.values())
    require_memory(total, copies=3 + len(chunk_bytes), op="bench")
    random = np.random.default_rng(1)
    source = {
        name: torch.from_numpy(random.integers(0, 1 << 64, -(-size // 8), np.uint64)).view(torch.uint8)[:size]
        for name, size in sizes.items()
    }
    target = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    shared = SharedCopy(_arrays(source))
    copies: list[float] = []
    samples: list[list[float]] = [[] for _ in chunk_bytes]
    chunks = [0] * len(chunk_bytes)

    def poison() -> None:
        for tensor in target.values():
            tensor.fill_(_FILL)

    def compare() -> None:
        assert all(torch.equal(target[name], tensor) for name, tensor in source.items())

    with contextlib.ExitStack() as stack:
        config = Config(worker=stack.enter_context(private_worker(len(chunk_bytes) * total)), hold=False)
        loader = stack.enter_context(FastLoader(config))
        identities = []
        for size in chunk_bytes:
            publisher = stack.enter_context(FastLoader(attrs.evolve(config, chunk_bytes=size)))
            identities.append({"bench": uuid.uuid4().hex})
            publisher.publish(source, identities[-1])
        for turn in range(rounds + 1):
            note(f"host, {gib:g} GiB: round {turn} of {rounds}" if turn else f"host, {gib:g} GiB: warming up")
            for place in range(turn, turn + len(chunk_bytes)):
                index = place % len(chunk_bytes)
                poison()
                report = loader.load(target, identities[index])
                compare()
                chunks[index] = report.chunks
                if turn:
                    samples[index].append(report.seconds)
            poison()
            seconds = shared.memcpy_seconds(_arrays(target), loader.stats()["copy_threads"])
            compare()
            if turn:
                copies.append(seconds)
    best = min(samples, key=statistics.median)
    return [
        {
            "chunk_bytes": size,
            "chunks": count,
            "gib": total / (1 << 30),
            "seconds": spread(values),
            "to_best": ratio(values, best),
            "memcpy_s": spread(copies),
            "memcpy_share": ratio(copies, values),
        }
        for size, count, values in zip(chunk_bytes, chunks, samples, strict=True)
    ]


def _by_devices(plans: Sequence[Plan], rounds: int, note: Note) -> list[dict[str, Any]]:
    require_memory(max(sum(plan.sizes().values()) for plan in plans), copies=4, op="bench")
    with private_worker(0) as worker:
        return [_by_device(plan.at(worker), rounds, note) for plan in plans]


def _by_device(plan: Plan, rounds: int, note: Note) -> dict[str, Any]:
    gib = sum(plan.sizes().values()) / (1 << 30)
    chunks = f"chunks of {plan.chunk_bytes // _MIB} MiB" if plan.chunk_bytes else "chunks as usual"
    environment, _ = device_environment("d2d")
    record = measure_devices(
        plan,
        rounds,
        baseline=False,
        readers=0,
        environment=environment,
        note=lambda text: note(f"d2d, {gib:.2g} GiB, {chunks}: {text}"),
        trace=None,
    )
    kept = ("bytes", "tensors", "chunks", "load_s", "publish_s", "settled_s", "raw_copy_s", "raw_share")
    return {"chunk_bytes": plan.chunk_bytes, "gib": gib, **{key: record[key] for key in kept}}


def measure(rounds: int, scale: float, note: Note) -> dict[str, Any]:
    """Time loads of one model's tensors, every byte compared.

    Args:
        rounds: Repetitions; medians are reported.
        scale: Factor for all sizes.
        note: Called with each step, for progress.

    Returns:
        One list each: ``readers`` (d2d), ``host_size`` and ``d2d_size``, ``tensors`` (host), ``host_chunk`` and
        ``d2d_chunk``.
    """
    return {
        "readers": _readers(0.25 * scale, min(rounds, 2), note),
        "host_size": [_by_host(gib * scale, [0], min(rounds, 2), note)[0] for gib in GIB],
        "d2d_size": _by_devices([_plan(gib * scale) for gib in GIB], min(rounds, 2), note),
        "tensors": measure_tensors([max(1, int(count * scale)) for count in TENSORS], min(rounds, 3), note),
        "host_chunk": _by_host(0.5 * scale, [size * _MIB for size in CHUNK_MIB], min(rounds, 3), note),
        "d2d_chunk": _by_devices([_plan(0.5 * scale, size * _MIB) for size in CHUNK_MIB], min(rounds, 2), note),
    }
