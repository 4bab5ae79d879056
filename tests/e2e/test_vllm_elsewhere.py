"""`yr-fastload serve` on a machine that has neither the model nor anything that was compiled."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.worker, pytest.mark.long, pytest.mark.timeout(1800)]

START_S = 600.0
END_S = 90.0
VLLM = ["--max-model-len", "128", "--seed", "0", "--max-num-seqs", "4", "--max-num-batched-tokens", "64"]


@contextlib.contextmanager
def serving(model: Path, environment: dict[str, str]) -> Iterator[httpx.Client]:
    """A service of its own, once its first instance is ready."""
    serve = ["-m", "yr_fastload_native", "serve", "--model", str(model), "--port", "0", "--json", "--", *VLLM]
    command = [sys.executable, *serve]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert process.stdout is not None
            with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=60) as client:
                deadline = time.monotonic() + START_S
                while (instance := first_of(client))["state"] != "ready":
                    assert instance["state"] != "failed", instance
                    assert time.monotonic() < deadline, instance
                    time.sleep(0.2)
                yield client
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            finally:
                process.kill()


def first_of(client: httpx.Client) -> dict[str, Any]:
    instances = client.get("/status").json()["instances"]
    return instances[0] if instances else {"state": "none"}


def text_of(client: httpx.Client, model: Path) -> str:
    asked = {"model": str(model), "prompt": "an instance that starts elsewhere", "max_tokens": 12, "temperature": 0}
    return client.post("/v1/completions", json=asked).json()["choices"][0]["text"]


def test_a_service_where_nothing_is(make: Callable[..., Path], worker: str, tmp_path: Path) -> None:
    def machine(name: str) -> dict[str, str]:
        own = {"XDG_CACHE_HOME": str(tmp_path / name), "VLLM_CACHE_ROOT": str(tmp_path / name / "vllm")}
        return {**own, "DS_WORKER_ADDR": worker, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

    model = make("qwen2", seed=27)
    with serving(model, machine("first")) as first:
        answer = text_of(first, model)
        time.sleep(5)  # it publishes what it compiled once it is ready
        model.rename(tmp_path / "gone")
        with serving(model, machine("second")) as second:
            told = first_of(second)
            assert told["load_source"] == "instance"
            compiled = next(each for each in told["phases"] if each["name"] == "compiled")
            assert compiled["facts"] == {"cache": "hit"}
            assert told["ready_seconds"] < first_of(first)["ready_seconds"]
            assert text_of(second, model) == answer
            assert list((tmp_path / "second" / "vllm" / "modelinfos").iterdir())
