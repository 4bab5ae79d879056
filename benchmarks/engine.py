"""vLLM: an instance that pulls, against one that reads the disk with vLLM's own loader and the page cache dropped."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["COMMAND", "measure"]

COMMAND = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "yr-fastload"
_START_S = 900.0


def _verify(model: Path, *options: str) -> dict[str, Any]:
    command = [str(COMMAND), "verify-vllm", "--model", str(model), "--drop-cache", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["tokens_equal"], record
    assert record["fallback"] is None, record
    return dict(record)


def measure(size_mb: int, rounds: int, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """Start a cold and a pulling instance in turn, with copies and without; the tokens have to be the same.

    Args:
        size_mb: Of the model, a qwen2 with random weights.
        rounds: Repetitions.
        folder: Where there is room for it.
        note: Says what goes on.
    """
    model = folder / "qwen2"
    note("making a model for vLLM")
    subprocess.run(
        [str(COMMAND), "verify-vllm", "--make-tiny", "qwen2", "--size-mb", str(size_mb), "--only-make", str(model)],
        check=True,
        capture_output=True,
        timeout=_START_S,
    )
    found: dict[str, list[dict[str, Any]]] = {"copied": [], "aliased": []}
    for turn in range(rounds):
        note(f"vLLM: round {turn + 1} of {rounds}")
        found["copied"].append(_verify(model))
        found["aliased"].append(_verify(model, "--zero-copy"))

    def median(how: str, key: str) -> float:
        return float(statistics.median(record[key] for record in found[how]))

    return {
        "bytes": found["copied"][0]["bytes"],
        "vllm": found["copied"][0]["vllm_version"],
        "rounds": rounds,
        "cold_s": statistics.median(record["cold_load_s"] for records in found.values() for record in records),
        "copied": {"pull_s": median("copied", "pull_load_s"), "speedup": median("copied", "speedup")},
        "aliased": {"pull_s": median("aliased", "pull_load_s"), "speedup": median("aliased", "speedup")},
        "publish_share": statistics.median(
            record["publish_s"] / record["load_model_s"][0] for records in found.values() for record in records
        ),
        "records": found,
    }
