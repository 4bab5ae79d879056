"""vLLM's own commands: `vllm serve` in processes of its own, and `vllm bench`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.config import ENVIRONMENT_PREFIX
from yr_fastload_native.vllm.compat import beside_others, has_load_formats
from yr_fastload_native.vllm.reports import events, wait_until_published

pytestmark = [pytest.mark.worker, pytest.mark.filterwarnings("default")]  # vLLM's imports warn

VLLM = Path(sys.executable).parent / "vllm"
START_S = 240.0
PUBLISH_S = 60.0
PROMPT = "an instance that starts now"
_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def flags(settings: Mapping[str, object]) -> tuple[list[str], dict[str, str]]:
    """What to add to a command and to its environment."""
    if has_load_formats():
        return ["--load-format", "yr_fastload", "--model-loader-extra-config", json.dumps(settings)], {}
    return [], {ENVIRONMENT_PREFIX + name.upper(): str(value) for name, value in {**settings, "patch": 1}.items()}


@pytest.fixture
def command(worker: str) -> Callable[..., tuple[list[str], dict[str, str]]]:
    def make_one(*words: str, report: Path) -> tuple[list[str], dict[str, str]]:
        given, more = flags({"worker": worker, "lease_s": 2, "report": str(report)})
        words += ("--max-model-len", "128", "--enforce-eager", "--gpu-memory-utilization", "0.1", "--seed", "0")
        environment = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            **beside_others(1),
            "VLLM_NO_USAGE_STATS": "1",
        }
        return [str(VLLM), *words, *given], os.environ | environment | more

    return make_one


@contextlib.contextmanager
def served(command: list[str], environment: dict[str, str], log: Path, port: int) -> Iterator[str]:
    """A server that is ready; it and all processes that it started end with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        process.wait(60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    try:
        with _http.open(address, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def completion(address: str, model: Path) -> str:
    body = {"model": str(model), "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with _http.open(request, timeout=60) as response:
        return json.load(response)["choices"][0]["text"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_serve_then_serve_and_bench(make: Callable[..., Path], command: Any, tmp_path: Path) -> None:
    model = make("qwen2", vocabulary=10_240)  # `vllm bench` draws tokens from the first 10,000
    texts = []
    with contextlib.ExitStack() as servers:
        for name in ("first", "second"):
            port = free_port()
            words = ("serve", str(model), "--host", "127.0.0.1", "--port", str(port))
            line, environment = command(*words, report=tmp_path / name)
            address = servers.enter_context(served(line, environment, tmp_path / f"{name}.log", port))
            texts.append(completion(address, model))
            if name == "first":
                wait_until_published(tmp_path / "first", 1, PUBLISH_S, op="test")
        words = (
            "bench",
            "latency",
            "--model",
            str(model),
            "--input-len",
            "8",
            "--output-len",
            "4",
            "--batch-size",
            "1",
        )
        line, environment = command(*words, "--num-iters", "1", "--num-iters-warmup", "1", report=tmp_path / "bench")
        subprocess.run(line, env=environment, check=True, timeout=START_S, cwd=tmp_path, capture_output=True)
    assert texts[0] == texts[1]
    (cold,) = events(tmp_path / "first", "loaded")
    assert cold["fallback"] == "NOT_PUBLISHED"
    for name in ("second", "bench"):
        (pulled,) = events(tmp_path / name, "loaded")
        assert pulled["fallback"] is None
        assert pulled["cold_load_s"] is None
        assert pulled["transport"] == "host"
    assert "pulled " in (tmp_path / "second.log").read_text()
