"""A command of vLLM's own that makes an instance: `vllm bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.vllm.compat import beside_others, has_load_formats
from yr_fastload_native.vllm.reports import events

VLLM = Path(sys.executable).parent / "vllm"
START_S = 240.0


@pytest.mark.long
@pytest.mark.worker
@pytest.mark.filterwarnings("default")  # vLLM's imports warn
def test_bench_pulls(
    make: Callable[..., Path],
    publisher: Callable[..., Any],
    worker: str,
    environment_of_vllm: dict[str, str],
    tmp_path: Path,
) -> None:
    model = make("qwen2", vocabulary=10_240)  # it draws tokens from the first 10,000
    publisher(model)
    words = ["latency", "--model", str(model), "--input-len", "8", "--output-len", "4", "--batch-size", "1"]
    few = ["--num-iters", "1", "--num-iters-warmup", "1", "--max-model-len", "128", "--enforce-eager", "--seed", "0"]
    environment = {**environment_of_vllm, "DS_WORKER_ADDR": worker, "YR_FASTLOAD_REPORT": str(tmp_path / "report")}
    # One flag, or none where vLLM has no load formats of others: then the patch does it.
    door = ["--load-format", "yr_fastload"] if has_load_formats() else []
    done = subprocess.run(
        [VLLM, "bench", *words, *few, "--gpu-memory-utilization", "0.1", *door],
        env={**os.environ, **environment, **beside_others(1), **({} if door else {"YR_FASTLOAD_PATCH": "1"})},
        timeout=START_S,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    (pulled,) = events(tmp_path / "report", "loaded")
    assert (pulled["fallback"], pulled["cold_load_s"], pulled["transport"]) == (None, None, "host")
