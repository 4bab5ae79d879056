"""`yr-fastload demo` from end to end: real processes, a real worker, every byte compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from yr_fastload_native.checkpoints.synthetic import make_qwen2
from yr_fastload_native.worker import LocalWorker

pytestmark = pytest.mark.worker

KEYS = {
    "transport",
    "bytes",
    "tensors",
    "chunks",
    "cold_s",
    "warm_s",
    "publish_s",
    "load_s",
    "load_gib_per_s",
    "memcpy_gib_per_s",
    "speedup_cold",
    "speedup_warm",
    "verified",
}


@pytest.fixture
def environment(tmp_path):
    """An environment that marks every process of the demo, and has its temporary files under `tmp_path`."""
    (tmp_path / "tmp").mkdir()
    kept = {name: value for name, value in os.environ.items() if name != "DS_WORKER_ADDR"}
    return kept | {"DEMO_TEST": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, environment):
    yield
    deadline = time.monotonic() + 10
    while left := marked(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert list((tmp_path / "tmp").iterdir()) == []


def marked(tmp_path: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_TEST") == str(tmp_path) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def command(process):
    """What a process runs; nothing once it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def start(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "yr_fastload_native", "demo", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


def test_made_checkpoint(environment):
    status, stdout, stderr = finish(start(environment, "--json", "--size-mb", "64"))
    assert (status, stderr) == (0, "")
    record = json.loads(stdout)
    assert stdout.count("\n") == 1
    assert record.keys() >= KEYS
    assert record["verified"] is True
    assert record["transport"] == "host"
    assert record["tensors"] == 339
    assert record["bytes"] == pytest.approx(64 << 20, rel=0.1)
    assert record["load_gib_per_s"] == pytest.approx(record["bytes"] / record["load_s"] / (1 << 30))
    assert record["speedup_cold"] == pytest.approx(record["cold_s"] / record["load_s"])
    assert record["speedup_warm"] == pytest.approx(record["warm_s"] / record["load_s"])
    assert record["rounds"] == 3
    assert {name: len(values) for name, values in record["seconds"].items()} == dict.fromkeys(
        ("cold", "warm", "pull", "memcpy"), 3
    )
    assert all(record[name] > 0 for name in KEYS - {"transport", "verified"})


def test_own_model_and_worker(environment, tmp_path, short_home):
    model = make_qwen2(tmp_path / "model", size_mb=16)
    (model / "model.safetensors.index.json").unlink()
    odd = {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "float8": torch.ones(5, dtype=torch.float8_e4m3fn)}
    save_file(odd, model / "odd.safetensors")
    before = {path: path.stat().st_mtime_ns for path in model.iterdir()}
    with LocalWorker(home=short_home, memory_mb=512) as worker:
        environment["DS_WORKER_ADDR"] = worker.address
        status, stdout, stderr = finish(start(environment, "--model", str(model), "--transport", "host"))
        assert LocalWorker.status(short_home) is not None
    assert (status, stderr) == (0, "")
    assert "verified: yes" in stdout
    assert "model: 342 tensors" in stdout
    assert stdout.count("Pulls win where files are not cached") == 1
    assert {path: path.stat().st_mtime_ns for path in model.iterdir()} == before


@pytest.mark.parametrize("transport", ["d2d", pytest.param("staged", marks=pytest.mark.long)])
def test_tensors_in_memory_of_a_device(environment, tmp_path, transport):
    """Which the CPU cannot reach, unless told otherwise."""
    model = make_qwen2(tmp_path / "model", size_mb=16)
    (model / "model.safetensors.index.json").unlink()
    odd = {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "float8": torch.ones(5, dtype=torch.float8_e4m3fn)}
    save_file(odd, model / "odd.safetensors")
    assert "YR_FASTLOAD_SIM_OPAQUE" not in environment
    status, stdout, stderr = finish(start(environment, "--model", str(model), "--transport", transport, "--json"))
    assert status == 0, stderr
    record = json.loads(stdout)
    assert (record["transport"], record["verified"], record["devices"]) == (transport, True, "simulated")


def test_model_without_bytes(environment, tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"empty": torch.empty(0)}, tmp_path / "model" / "model.safetensors")
    status, stdout, stderr = finish(start(environment, "--model", str(tmp_path / "model")))
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: INVALID_ARGUMENT: demo: ")
    assert "holds no bytes to load" in stderr


def test_worker_that_is_not_there(environment):
    environment["DS_WORKER_ADDR"] = "127.0.0.1:9"
    status, stdout, stderr = finish(start(environment, "--size-mb", "1", "--json"))
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: UNAVAILABLE: demo: source: connect: ")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("ready", "number", "expected"),
    [
        ("worker", signal.SIGTERM, 143),
        ("source", signal.SIGINT, 130),
        pytest.param("worker", signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param("source", signal.SIGTERM, 143, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_everything_in_order(environment, tmp_path, number, expected, ready):
    process = start(environment, "--size-mb", "256")
    deadline = time.monotonic() + 60
    pattern = {"worker": "dscli", "source": "demo_process"}[ready]
    while not any(pattern in " ".join(command(child)) for child in marked(tmp_path)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    status, stdout, _ = finish(process)
    assert (status, stdout) == (expected, "")


def test_a_process_that_dies_is_reported(environment, tmp_path):
    process = start(environment, "--size-mb", "256", "--json")
    while not (sources := [p for p in marked(tmp_path) if command(p)[-1:] == ["source"]]):
        assert process.poll() is None
        time.sleep(0.02)
    sources[0].kill()
    status, stdout, stderr = finish(process)
    assert (status, stdout) == (1, "")
    assert stderr == "error: INTERNAL: demo: the source ended with SIGKILL; what it wrote is above\n"
