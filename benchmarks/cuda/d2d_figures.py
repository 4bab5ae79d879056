"""How fast weights come from another process's memory on the same GPU, against a copy of the same bytes."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.cuda.figures import Budget, Note, seconds_of, transfer_seconds
from benchmarks.cuda.source import source
from benchmarks.cuda.tensors import Tensors, model
from yr_fastload_native import Config, FastLoader, LoadReport
from yr_fastload_native.measuring.resources import private_worker

__all__ = ["d2d"]

_WORKER_BYTES = 1 << 30


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name].view(torch.int16), tensor.view(torch.int16)) for name, tensor in other.items())


def d2d(found: dict[str, Any], total: int, rounds: int, budget: Budget, note: Note) -> None:
    """Two processes on one GPU: 339 tensors of Qwen2.5-7B's shapes, scaled."""
    identity = {"bench": uuid.uuid4().hex}
    with (
        private_worker(_WORKER_BYTES) as worker,
        source(worker, identity, "model", seed=3, total=total, settings={"publish_as": "d2d"}) as first,
    ):
        found |= first.told
        note(f"published by reference in {first.told['publish_s']:.3f} s")
        weights = model(total, 3)
        target = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        size = sum(tensor.nbytes for tensor in weights.values())
        found |= {"bytes": size, "tensors": len(weights)}
        _copies(found, weights, target, size, rounds)
        note(f"cuMemcpyDtoD: {found['one_piece_s']:.4f} s")
        for name, verify in {"digests": "digest", "no digests": "layout"}.items():
            with FastLoader(Config(worker=worker, hold=False, deadline_s=60, verify=verify)) as loader:
                found[name] = _pulls(loader, identity, weights, target, rounds, budget)
            note(f"d2d, {name}: {found[name]}")
        plain, verified = found["no digests"], found["digests"]
        found["share_without_digest"] = found["one_piece_s"] / plain["transfer_s"]
        found["share_with_digest"] = found["one_piece_s"] / verified["transfer_s"]
        found["digest_share"] = 1 - plain["transfer_s"] / verified["transfer_s"]
        found["pull_share_with_digest"] = found["one_piece_s"] / verified["pull_s"]
        found["pull_digest_share"] = 1 - plain["pull_s"] / verified["pull_s"]


def _copies(found: dict[str, Any], weights: Tensors, target: Tensors, size: int, rounds: int) -> None:
    found["one_piece_s"] = _one_piece(size, rounds)
    torch.cuda.empty_cache()

    def each() -> None:
        for name, tensor in target.items():
            tensor.copy_(weights[name], non_blocking=True)

    found["each_tensor_s"] = statistics.median(seconds_of(each) for _ in range(rounds + 1))


def _one_piece(size: int, rounds: int) -> float:
    one, other = (torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2))
    return statistics.median(seconds_of(lambda: other.copy_(one)) for _ in range(rounds + 1))


def _pulls(
    loader: FastLoader, identity: dict[str, str], weights: Tensors, target: Tensors, rounds: int, budget: Budget
) -> dict[str, Any]:
    pulls, transfers, extra = [], [], 0
    reports: list[LoadReport] = []
    for turn in range(rounds + 1):
        if not budget.allows(5):
            break
        for tensor in target.values():
            tensor.view(torch.int16).fill_(-1)
        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        seconds = seconds_of(lambda: reports.append(loader.load(target, identity)))
        extra = max(extra, free - torch.cuda.mem_get_info()[0])
        assert reports[-1].transport == "d2d", reports[-1].steps
        assert _equal(weights, target), turn
        if turn:
            pulls.append(seconds)
            transfers.append(transfer_seconds(reports[-1].spans))
    return {
        "pull_s": statistics.median(pulls),
        "transfer_s": statistics.median(transfers),
        "rounds": {"pull": pulls, "transfer": transfers},
        "stages": dict(reports[-1].stages),
        "extra_device_bytes": extra,
    }
