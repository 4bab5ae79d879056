"""Real instances that are forked from the template of `yr-fastload serve`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.worker, pytest.mark.timeout(1800)]

START_S = 600.0
END_S = 90.0
ASKED = {"model": "tiny", "prompt": "an instance that starts now", "max_tokens": 12, "temperature": 0}
FORKED = "yr_fastload_native.template.process"  # whose command line forked processes have
VLLM = ["--served-model-name", "tiny", "--max-model-len", "128", "--enforce-eager", "--seed", "0"]


def until(client: httpx.Client, true: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while not true(status := client.get("/status").json()):
        assert not any(each["state"] == "failed" for each in status["instances"]), status
        assert time.monotonic() < deadline, (what, status)
        time.sleep(0.2)
    return status


def ready(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda status: sum(each["state"] == "ready" for each in status["instances"]) == count


def below(pid: int) -> list[psutil.Process]:
    """What an instance runs, but for a worker that others may use."""
    found = psutil.Process(pid).children(recursive=True)
    return [each for each in found if any("vllm" in part or FORKED in part for part in each.cmdline())]


def test_an_instance_is_forked_and_answers_the_same(
    make: Callable[..., Path], worker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a first one has told what it imports, all processes of the next are forked, in a fraction of the time."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DS_WORKER_ADDR": worker,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    serve = ["-m", "yr_fastload_native", "serve", "--model", str(make("qwen2")), "--port", "0", "--json"]
    with subprocess.Popen([sys.executable, *serve, "--", *VLLM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=60) as client:
                guess = until(client, ready(1), "no first instance")
                first_template = guess["template"]["pid"]
                until(
                    client,
                    lambda status: (
                        status["template"]["state"] == "ready"
                        and status["template"]["pid"] not in (None, first_template)
                    ),
                    "no template that knows more",
                )
                client.post("/scaleout")
                first, second = until(client, ready(2), "no second instance")["instances"]
                assert (second["from_template"], second["not_forked"]) == (True, None)
                assert second["load_source"] == "instance"
                for each in (first, second):
                    took = {phase["name"]: phase["seconds"] for phase in each["phases"]}
                    assert {"launched", "rank set up", "model made", "weights", "processed", "warmed up"} <= set(took)
                    assert abs(sum(took.values()) - each["ready_seconds"]) <= 0.05 * each["ready_seconds"] + 0.1
                processes = below(second["pid"])
                forked = [each for each in processes if FORKED in each.cmdline()]
                assert len(forked) >= 3  # server, engine and rank
                assert second["ready_seconds"] < first["ready_seconds"] / 2
                answers = [client.post("/v1/completions", json=ASKED) for _ in range(2)]
                assert {each.headers["x-served-by"] for each in answers} == {"instance-1", "instance-2"}
                assert len({each.json()["choices"][0]["text"] for each in answers}) == 1
            started = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait(END_S)
            _, alive = psutil.wait_procs(started, 10)
            assert not alive
        finally:
            process.kill()
