"""``yr-fastload bench`` on a scale that takes seconds: every figure is there, and the trace is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.measuring.device import measure_fan_out, measure_interference
from yr_fastload_native.measuring.device_process import Plan
from yr_fastload_native.measuring.resources import device_environment, private_worker

pytestmark = pytest.mark.worker


def bench(*options: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "yr_fastload_native", "bench", "--rounds", "1", "--json", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return dict(json.loads(line))


def stages(record: dict[str, Any]) -> list[str]:
    rows = record["breakdown"]
    assert all(0 <= row["begin_s"] <= row["end_s"] and row["seconds"] >= 0 and row["threads"] > 0 for row in rows)
    return [row["stage"] for row in rows]


def test_host(tmp_path: Path) -> None:
    record = bench("--size-mb", "24", "--trace", str(tmp_path / "trace.json"))
    assert record["verified"]
    assert stages(record) == ["layout", "manifest", "fetch", "copy"]
    copied = next(row for row in record["breakdown"] if row["stage"] == "copy")
    assert copied["bytes"] >= record["bytes"]
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["name"] for event in events if event["ph"] == "X"} == {"layout", "manifest", "fetch", "copy"}
    assert {event["pid"] for event in events} == {1, 2}


def test_devices(tmp_path: Path) -> None:
    options = ("--transport", "d2d", "--shapes", "tiny", "--scale", "0.1", "--baseline", "none")
    record = bench(*options, "--trace", str(tmp_path / "trace.json"))
    assert record["verified"]
    assert record["tensors"] == 10_000
    assert {"layout", "manifest", "setup", "fetch"} <= set(stages(record))
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("transport", "more"),
    [
        pytest.param("d2d", ("--baseline", "per-parameter", "--readers", "2"), marks=pytest.mark.long),
        ("staged", ()),
    ],
)
def test_memory_that_only_a_device_reaches(transport: str, more: tuple[str, ...]) -> None:
    """As that of a real device: a process that touches it as its own ends there."""
    options = ("--transport", transport, "--shapes", "qwen2.5-7b", "--scale", "0.0005", *more)
    record = bench(*options, YR_FASTLOAD_SIM_OPAQUE="1")
    assert (record["transport"], record["verified"]) == (transport, True)
    assert record["raw_copy_s"] > 0
    if more:
        assert record["baseline"]["load_s"] > 0
        assert record["fan_out"]["publisher_sent_ratio"] > 0.9


def test_a_workload_of_the_other_kind_is_refused() -> None:
    command = [sys.executable, "-m", "yr_fastload_native", "bench", "--shapes", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--shapes cannot be used with --transport host" in done.stderr


@pytest.mark.long
def test_readers_together_and_work_beside_a_reader() -> None:
    """What `make bench` asks of processes and no command does."""
    environment, _ = device_environment("d2d")
    with private_worker(0) as worker:
        plan = Plan(worker=worker, transport="d2d", shapes="qwen2.5-7b", scale=0.0005, deadline_s=60.0)
        one, three = measure_fan_out(plan, (1, 3), 1, environment=environment, note=lambda text: None)
        beside = measure_interference(plan, 1, 0.3, environment=environment, note=lambda text: None)
    assert (one["readers"], three["readers"]) == (1, 3)
    assert 0.9 < one["publisher_sent_ratio"] < 1.1
    assert 0.9 < three["publisher_sent_ratio"] < 3.1
    assert beside["verified"]
    assert beside["loads"] > 0
    assert {len(rates) for rates in beside["products_per_s"].values()} == {1}
