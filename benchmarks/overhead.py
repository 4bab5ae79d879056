"""The cost of a load beyond its bytes: work per tensor, and what readers cost a source."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from yr_fastload_native import Config, FastLoader
from yr_fastload_native.measuring.resources import private_worker
from yr_fastload_native.reporting.timeline import breakdown

__all__ = ["measure_tensors"]

_TENSOR_BYTES = 64
_PER_TENSOR = ("layout", "manifest", "finish")


def measure_tensors(counts: Sequence[int], rounds: int, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """Pull many tensors of 64 bytes each: the time goes to names, layouts and plans.

    Args:
        counts: Numbers of tensors, one entry of the result each.
        rounds: Repetitions, after one that does not count.
        note: Called with each step, for progress.

    Returns:
        Microseconds per tensor (``us``), of the whole pull and by stage, medians.
    """
    with private_worker(4 * sum(counts) * _TENSOR_BYTES) as worker:
        return [_pull(Config(worker=worker, hold=False), tensors, rounds, note) for tensors in counts]


def _pull(config: Config, tensors: int, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    note(f"{tensors} tensors of {_TENSOR_BYTES} bytes")
    arrays = {f"model.layers.{i}.weight": np.full(_TENSOR_BYTES, i % 251, np.uint8) for i in range(tensors)}
    source = {name: torch.from_numpy(array) for name, array in arrays.items()}
    target = {name: torch.zeros_like(tensor) for name, tensor in source.items()}
    whole: list[float] = []
    stages: dict[str, list[float]] = {}
    with FastLoader(config) as publisher, FastLoader(config) as loader:
        identity = {"bench": uuid.uuid4().hex}
        publisher.publish(source, identity)
        for turn in range(rounds + 1):
            for tensor in target.values():
                tensor.fill_(255)
            report = loader.load(target, identity)
            assert all(torch.equal(target[name], tensor) for name, tensor in source.items())
            if turn:
                whole.append(report.seconds)
                for row in breakdown(report.spans):
                    stages.setdefault(row["stage"], []).append(row["seconds"])
    us = {stage: statistics.median(values) / tensors * 1e6 for stage, values in stages.items()}
    return {
        "tensors": tensors,
        "rounds": rounds,
        "verified": True,
        "us": {"pull": statistics.median(whole) / tensors * 1e6, **us},
        "us_per_tensor": sum(us.get(stage, 0.0) for stage in _PER_TENSOR),
    }
