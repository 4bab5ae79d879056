"""vLLM's own commands: `vllm serve`, started by `yr-fastload serve` as in the original use case, and `vllm bench`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from yr_fastload_native.vllm.compat import beside_others, has_load_formats
from yr_fastload_native.vllm.reports import events

pytestmark = [pytest.mark.worker, pytest.mark.filterwarnings("default")]  # vLLM's imports warn

VLLM = Path(sys.executable).parent / "vllm"
START_S = 240.0
STANDARD = ["--max-model-len", "128", "--enforce-eager", "--seed", "0"]
ASKED = {"model": "tiny", "prompt": "an instance that starts now", "max_tokens": 12, "temperature": 0}


def door() -> list[str]:
    """One flag, or none where vLLM has no load formats of others: then the patch does it."""
    return ["--load-format", "yr_fastload"] if has_load_formats() else []


@pytest.fixture
def environment(worker: str) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DS_WORKER_ADDR": worker,
    }


@contextlib.contextmanager
def service(model: Path, logs: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "yr_fastload_native", "serve", "--launcher", "local", "--port", "0", "--json"]
    vllm = ["--served-model-name", "tiny", *STANDARD, *door()]
    process = subprocess.Popen(
        [*command, "--logs", str(logs), "--", *vllm],
        env={**environment, "MODEL_PATH": str(model)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def until_ready(client: httpx.Client, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + START_S
    while True:
        instances = client.get("/status").json()["instances"]
        if sum(each["state"] == "ready" for each in instances) == count:
            return instances
        assert not any(each["state"] == "failed" for each in instances), instances
        assert time.monotonic() < deadline, instances
        time.sleep(0.2)


def bench(model: Path, report: Path, environment: dict[str, str]) -> None:
    """`vllm bench` with an instance of its own."""
    words = ["latency", "--model", str(model), "--input-len", "8", "--output-len", "4", "--batch-size", "1"]
    more = ["--num-iters", "1", "--num-iters-warmup", "1", "--gpu-memory-utilization", "0.1", *STANDARD, *door()]
    given = {"YR_FASTLOAD_REPORT": str(report), "VLLM_CPU_KVCACHE_SPACE": "1"}
    if not door():
        given["YR_FASTLOAD_PATCH"] = "1"
    done = subprocess.run(
        [VLLM, "bench", *words, *more],
        env={**environment, **beside_others(1), **given},
        timeout=START_S,
        cwd=report.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_scale_out_and_bench(make: Callable[..., Path], environment: dict[str, str], tmp_path: Path) -> None:
    model = make("qwen2", vocabulary=10_240)  # `vllm bench` draws tokens from the first 10,000
    with service(model, tmp_path / "logs", environment) as process:
        with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=60) as client:
            (first,) = until_ready(client, 1)
            assert (first["load_source"], first["fallback"]) == ("disk", "NOT_PUBLISHED")
            assert client.post("/scaleout", content=b"").json() == {"instances": ["instance-2"]}
            first, second = until_ready(client, 2)
            assert (second["load_source"], second["transport"], second["fallback"]) == ("instance", "host", None)
            assert second["bytes"] == first["bytes"] > 0
            assert second["speed_up"] == first["load_seconds"] / second["load_seconds"]
            assert "pulled " in (tmp_path / "logs/instance-2.log").read_text()
            answers = [client.post("/v1/completions", json=ASKED) for _ in range(2)]
            assert {answer.headers["x-served-by"] for answer in answers} == {"instance-1", "instance-2"}
            texts = {answer.json()["choices"][0]["text"] for answer in answers}
            assert len(texts) == 1
            with client.stream("POST", "/v1/completions", json={**ASKED, "stream": True}) as answer:
                lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
            assert lines.pop() == "[DONE]"
            assert {"".join(json.loads(line)["choices"][0]["text"] for line in lines)} == texts
        bench(model, tmp_path / "bench", environment)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 4  # two keepers, two servers, and what these start
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        _, alive = psutil.wait_procs(started, 10)
        assert not alive
    (pulled,) = events(tmp_path / "bench", "loaded")
    assert (pulled["fallback"], pulled["cold_load_s"], pulled["transport"]) == (None, None, "host")
