"""The original use case: one instance, `curl -X POST .../scaleout`, and a second that pulls its weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

START_S = 240.0
ASKED = {"prompt": "0 1 2 3 4", "max_tokens": 8, "temperature": 0}


@pytest.fixture
def serve(worker: str) -> Iterator[Callable[..., subprocess.Popen]]:
    started = []

    def start(model: Path, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "yr_fastload_native", "serve", "--launcher", "local", "--port", "0", "--json"]
        vllm = ["--max-model-len", "128", "--enforce-eager", "--dtype", "float32", "--served-model-name", "tiny"]
        process = subprocess.Popen(
            [*command, "--", *vllm],
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "1",
                "DS_WORKER_ADDR": worker,
                "MODEL_PATH": str(model),
                **environment,
            },
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def until_ready(client: httpx.Client, count: int) -> list[dict]:
    deadline = time.monotonic() + START_S
    while True:
        instances = client.get("/status").json()["instances"]
        if sum(each["state"] == "ready" for each in instances) == count:
            return instances
        assert not any(each["state"] == "failed" for each in instances), instances
        assert time.monotonic() < deadline, instances
        time.sleep(0.5)


def test_a_second_instance_pulls(make: Callable[..., Path], serve: Callable[..., subprocess.Popen]) -> None:
    service = serve(make("qwen2"))
    with httpx.Client(base_url=json.loads(service.stdout.readline())["url"], timeout=60) as client:
        (first,) = until_ready(client, 1)
        assert first["load_source"] == "disk"
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        assert client.post("/scaleout", content=b"").json() == {"instances": ["instance-2"]}
        first, second = until_ready(client, 2)
        assert (second["load_source"], second["transport"], second["fallback"]) == ("instance", "host", None)
        assert second["bytes"] == first["bytes"] > 0
        assert second["load_seconds"] > 0
        assert second["speed_up"] == first["load_seconds"] / second["load_seconds"]
        answers = [client.post("/v1/completions", json={"model": "tiny", **ASKED}) for _ in range(2)]
        assert {answer.headers["x-served-by"] for answer in answers} == {"instance-1", "instance-2"}
        texts = {answer.json()["choices"][0]["text"] for answer in answers}
        assert len(texts) == 1
        with client.stream("POST", "/v1/completions", json={"model": "tiny", "stream": True, **ASKED}) as answer:
            events = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        assert {"".join(json.loads(event)["choices"][0]["text"] for event in events)} == texts
    started = psutil.Process(service.pid).children(recursive=True)
    assert len(started) >= 4  # two keepers, two servers, and what these start
    service.send_signal(signal.SIGTERM)
    service.wait(60)
    _, alive = psutil.wait_procs(started, 10)
    assert not alive
