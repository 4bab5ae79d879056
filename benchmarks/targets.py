"""The project's performance targets, and whether a run met them. Ratios within one run, medians over its rounds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from benchmarks.ready import CASES

__all__ = ["TARGETS", "judge"]

Records = Mapping[str, Any]


@attrs.frozen
class Target:
    """One line of the table.

    Attributes:
        name: What is compared.
        bound: Least acceptable value, or greatest with ``at_most``.
        value: From the records of a run by section; None where the run has no such section.
        evidence: What the value was computed from.
    """

    name: str
    bound: float
    value: Callable[[Records], float]
    evidence: str
    at_most: bool = False
    unit: str = "x"

    def judge(self, records: Records) -> dict[str, Any]:
        try:
            value: float | None = self.value(records)
        except KeyError:
            value = None
        good = value is not None and (value <= self.bound if self.at_most else value >= self.bound)
        return {
            "name": self.name,
            "value": value,
            "target": f"{'<=' if self.at_most else '>='} {self.bound:g}{self.unit}",
            "passed": good,
            "evidence": self.evidence if value is not None else "not measured in this run",
        }


_QWEN = "qwen2.5-7b"


def _ready_speed_up(case: str, records: Records) -> float:
    return float(records["ready"]["speedup"][case])


TARGETS = (
    Target(
        "host: pull / memcpy, same threads",
        0.9,
        lambda r: r["host"][_QWEN]["memcpy_share"],
        "host.json: memcpy with as many threads / pull, into touched memory",
        unit="",
    ),
    Target(
        "host, touched memory: safetensors, page cache warm, copied by all cores / pull, every byte verified",
        1,
        lambda r: r["host"][_QWEN]["touched_speedup"],
        "host.json: safetensors' load_file and copy_ into memory in use / pull into memory in use",
    ),
    Target(
        "host, fresh memory: the quickest of those who read files, page cache warm / pull, every byte verified",
        1,
        lambda r: r["host"][_QWEN]["best_warm_speedup"],
        "host.json: least of safetensors, torch, fastsafetensors, run:ai in a round / pull, fresh memory",
    ),
    Target(
        "host, fresh memory: the quickest of those who read files, page cache dropped / pull, every byte verified",
        2,
        lambda r: r["host"][_QWEN]["best_cold_speedup"],
        "host.json: least of safetensors, torch, fastsafetensors, run:ai in a round / pull, fresh memory",
    ),
    Target(
        "host, nothing copied, nothing read: safetensors' mapping, page cache warm / pull, zero copy, layout only",
        1,
        lambda r: r["host"][_QWEN]["mapped_speedup"],
        "host.json: safetensors' load_file / pull, zero copy, layout only",
    ),
    Target(
        "host, nothing copied: safetensors' mapping, warm, every page touched / pull, zero copy, every byte verified",
        1,
        lambda r: r["host"][_QWEN]["mapped_read_speedup"],
        "host.json: safetensors' load_file and a look at each page / pull, zero copy",
    ),
    Target(
        "host, nothing copied: every byte read once at memory speed / pull, zero copy, every byte verified",
        0.8,
        lambda r: r["host"][_QWEN]["read_once_share"],
        "host.json: the sum of all bytes in shared memory, same threads / pull, zero copy",
        unit="",
    ),
    Target(
        "d2d: pull / raw single copy",
        0.85,
        lambda r: r["device"][_QWEN]["raw_share"],
        "device.json: process_vm_readv of the same bytes / load; simulated devices",
        unit="",
    ),
    Target(
        "d2d against one key a parameter, Qwen2.5-7B: overhead over the raw copy, load",
        1 / 20,
        lambda r: r["device"][_QWEN]["overhead_ratio"],
        "device.json: (load - raw copy) / (the original method's load - raw copy)",
        at_most=True,
    ),
    Target(
        "d2d against one key a parameter, Qwen2.5-7B: publish",
        30,
        lambda r: r["device"][_QWEN]["speedup_publish"],
        "device.json: the original method's publish / publish",
    ),
    Target(
        "d2d against one key a parameter, 10,000 small tensors: load",
        50,
        lambda r: r["device"]["tiny"]["speedup_load"],
        "device.json: the original method's load / load",
    ),
    Target(
        "d2d against one key a parameter, 10,000 small tensors: publish",
        100,
        lambda r: r["device"]["tiny"]["speedup_publish"],
        "device.json: the original method's publish / publish",
    ),
    Target(
        "vLLM's default loader, page cache dropped / pull, zero copy, >= 2 GB",
        10,
        lambda r: r["engine"]["aliased"]["speedup"],
        "engine.json: weights phase of the cold instance / of the pulling one, every byte verified",
    ),
    Target(
        "vLLM's default loader, page cache dropped / pull, >= 2 GB",
        10,
        lambda r: r["engine"]["copied"]["speedup"],
        "engine.json: weights phase of the cold instance / of the pulling one, every byte verified",
    ),
    Target(
        "vLLM's quickest own format, page cache warm / pull, zero copy, >= 2 GB",
        1,
        lambda r: r["engine"]["aliased"]["warm_speedup"],
        "engine.json: least of load_format auto, runai_streamer, fastsafetensors / a pull, all in one process",
    ),
    Target(
        "vLLM's quickest own format, page cache warm / pull, >= 2 GB",
        1,
        lambda r: r["engine"]["copied"]["warm_speedup"],
        "engine.json: least of load_format auto, runai_streamer, fastsafetensors / a pull, all in one process",
    ),
    *(
        Target(
            f"ready, {case.words}: ordinary start / from a template",
            case.bound,
            functools.partial(_ready_speed_up, name),
            "ready.json: launch to ready without template and compiled artifact / with both, medians",
        )
        for name, case in CASES.items()
    ),
    Target(
        "ready: what the phases of a start do not account for, at most",
        5,
        lambda r: 100 * r["ready"]["unaccounted_share"],
        "ready.json: the largest of |ready_seconds - sum of its phases| / ready_seconds",
        at_most=True,
        unit=" %",
    ),
    Target(
        "ready: memory of ten instances from a template, and of the template / of ten ordinary ones",
        0.6,
        lambda r: r["ready"]["memory_share"],
        "ready.json: Pss_Anon of all their processes, eager, a tiny model / ten times the median of ordinary ones",
        at_most=True,
        unit="",
    ),
    Target(
        "ready: all instances of a case answer with the same tokens",
        1,
        lambda r: float(r["ready"]["answers_equal"]),
        "ready.json: greedy decoding of one prompt; 1: yes",
        unit="",
    ),
    Target(
        "digest verification's share of a pull",
        5,
        lambda r: 100 * r["host"][_QWEN]["digest_share"],
        "host.json: 1 - pull, layout only / pull",
        at_most=True,
        unit=" %",
    ),
    Target(
        "publishing's share of a cold start's load_model (on a CPU it is copied before vLLM processes it)",
        3,
        lambda r: 100 * r["engine"]["publish_share"],
        "engine.json: seconds by which publishing held up load_model / load_model",
        at_most=True,
        unit=" %",
    ),
    Target(
        "a pull's effect on the source's own work (matmuls on one core, d2d) beyond that of bare copies",
        5,
        lambda r: 100 * r["device"]["interference"]["slow_down_beyond_copies"],
        "device.json: 1 - matmuls a second while a reader loads over and over / while a process copies the same bytes",
        at_most=True,
        unit=" %",
    ),
    Target(
        "overhead a tensor (names, layout, plan, finish), 50,000 tensors",
        2,
        lambda r: r["overhead"]["us_per_tensor"],
        "overhead.json: stages layout, manifest and finish of a pull / tensors",
        at_most=True,
        unit=" us",
    ),
    Target(
        "a first load, page cache dropped: published checkpoint while it is published, cloned / safetensors, cloned",
        1.05,
        lambda r: r["checkpoint"]["first"]["share_of_reading"],
        "checkpoint.json: seconds from the start of publishing until all tensors are copied / of safe_open and clone",
        at_most=True,
    ),
    Target(
        "half of a checkpoint, page cache dropped: safetensors, cloned / published checkpoint, cloned",
        4,
        lambda r: r["checkpoint"]["halves"]["cold_speedup"],
        "checkpoint.json: safe_open and clone of a rank's halves / the same from the pool, with sampling the files",
    ),
    Target(
        "half of a checkpoint, page cache warm: safetensors, cloned / published checkpoint, cloned",
        1,
        lambda r: r["checkpoint"]["halves"]["warm_speedup"],
        "checkpoint.json: as above; the checkpoint's files are sampled from disk all the same",
    ),
    Target(
        "half of a checkpoint: bytes of the pool that a rank of two touches / all",
        0.6,
        lambda r: r["checkpoint"]["halves"]["touched_share"],
        "checkpoint.json: resident pages of the rank's mapping / bytes of the checkpoint",
        at_most=True,
        unit="",
    ),
    Target(
        "a published checkpoint's tensor, iterated over, of torch's",
        5,
        lambda r: r["checkpoint"]["iterated"]["torch_us"],
        "checkpoint.json: seconds of an iteration, mapping included / tensors",
        at_most=True,
        unit=" us",
    ),
)


def judge(records: Records) -> dict[str, Any]:
    """``{"targets": [{name, value, target, passed, evidence}]}`` for the records of a run, by section."""
    return {"targets": [target.judge(records) for target in TARGETS]}
