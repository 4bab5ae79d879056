"""vLLM: an instance that pulls, against vLLM's own ways to read files, with the page cache dropped and warm."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yr_fastload_native.measuring.resources import private_worker

__all__ = ["COMMAND", "measure"]

COMMAND = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "yr-fastload"
_START_S = 900.0
_COPIED_ROUNDS = 2  # for time
_FORMATS = ("auto", "runai_streamer", "fastsafetensors")


def _verify(model: Path, *options: str) -> dict[str, Any]:
    command = [str(COMMAND), "verify-vllm", "--model", str(model), "--drop-cache", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["tokens_equal"], record
    assert record["fallback"] is None, record
    return dict(record)


def _formats(model: Path, rounds: int) -> dict[str, Any]:
    """Seconds of vLLM's own load formats and of pulls in one process, and the versions of libraries."""
    script = Path(__file__).with_name("vllm_formats.py")
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ}
    with private_worker(sum(path.stat().st_size for path in model.iterdir())) as worker:
        command = [str(COMMAND.with_name("python")), str(script), str(model), str(rounds), worker, *_FORMATS]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=True, env=environment)
    return dict(json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{"))))  # among logs


def measure(size_mb: int, rounds: int, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Start a cold and a pulling instance in turn, with copies and with zero copy; tokens must be equal.

    Args:
        size_mb: Of the model, a qwen2 with random weights.
        rounds: Repetitions.
        folder: Where the model is written.
        note: Called with each step, for progress.
    """
    model = folder / "qwen2"
    note("making a model for vLLM")
    subprocess.run(
        [str(COMMAND), "verify-vllm", "--make-tiny", "qwen2", "--size-mb", str(size_mb), "--only-make", str(model)],
        check=True,
        capture_output=True,
        timeout=_START_S,
    )
    note("vLLM: its own formats, and pulls in the same process")
    own = _formats(model, rounds)
    found: dict[str, list[dict[str, Any]]] = {"copied": [], "aliased": []}
    for turn in range(rounds):
        note(f"vLLM: round {turn + 1} of {rounds}")
        if turn < _COPIED_ROUNDS:
            found["copied"].append(_verify(model, "--no-zero-copy"))
        found["aliased"].append(_verify(model, "--zero-copy"))
    warm_s = min(each["warm_s"] for each in own["formats"].values() if "warm_s" in each)

    def median(how: str, key: str) -> float:
        return float(statistics.median(record[key] for record in found[how]))

    def ratios(how: str) -> dict[str, float]:
        pull_s = median(how, "pull_load_s")
        again_s = own["pulls"][how]["pull_s"]
        return {"pull_s": pull_s, "speedup": median(how, "speedup"), "warm_speedup": warm_s / again_s}

    return {
        "bytes": found["copied"][0]["bytes"],
        "vllm": found["copied"][0]["vllm_version"],
        "rounds": rounds,
        **own,
        "cold_s": statistics.median(record["cold_load_s"] for records in found.values() for record in records),
        "copied": ratios("copied"),
        "aliased": ratios("aliased"),
        "publish_share": statistics.median(
            record["publish_s"] / record["load_model_s"][0] for records in found.values() for record in records
        ),
        "records": found,
    }
