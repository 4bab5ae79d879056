"""``yr-fastload doctor``: it finds what is wrong, says what to do, and says nothing where all is well."""

from __future__ import annotations

import importlib.metadata
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import yr_fastload_native as fl
from yr_fastload_native.cli import doctor as module
from yr_fastload_native.cli import main

Environment = pytest.MonkeyPatch


def run(*options: str, healthy: bool) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(main, ["doctor", "--json", *options])
    assert done.exit_code == (0 if healthy else 1), done.output
    record = json.loads(done.output)
    assert record["healthy"] is healthy
    return {finding["check"]: finding for finding in record["findings"]}


@pytest.fixture(autouse=True)
def nobody_s_worker(monkeypatch: Environment, short_tmp: Path) -> None:
    for name in ("DS_WORKER_ADDR", "YR_FASTLOAD_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("YR_FASTLOAD_WORKER_HOME", str(short_tmp / "w"))


@pytest.mark.worker
def test_a_worker_that_answers(worker: str, monkeypatch: Environment) -> None:
    monkeypatch.setenv("DS_WORKER_ADDR", worker)
    found = run(healthy=True)
    assert found["worker"] == {"check": "worker", "level": "ok", "what": f"{worker} answers", "todo": ""}
    assert found["openYuanrong"]["level"] == "ok"
    assert {"memory", "memlock", "NPU", "vLLM"} <= found.keys()


@pytest.mark.worker
def test_a_worker_that_is_gone(own_worker: fl.LocalWorker, monkeypatch: Environment) -> None:
    address = own_worker.address
    monkeypatch.setenv("DS_WORKER_ADDR", address)
    own_worker.stop(force=True)
    found = run(healthy=False)["worker"]
    assert found["level"] == "wrong"
    assert found["what"].startswith(f"{address}: ")
    assert "DS_WORKER_ADDR" in found["todo"]


@pytest.mark.worker
def test_a_local_worker_whose_pool_is_too_small(short_tmp: Path, tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(300 << 20)
    with fl.LocalWorker(memory_mb=256) as local:
        assert run(healthy=True)["worker"]["what"] == f"{local.address} answers"
        found = run("--model", str(tmp_path), healthy=False)["pool"]
    assert found["level"] == "wrong"
    assert "--memory-mb 375" in found["todo"]


def test_a_wrong_address(monkeypatch: Environment) -> None:
    monkeypatch.setenv("DS_WORKER_ADDR", "nowhere")
    assert "nowhere" in run(healthy=False)["worker"]["what"]


def test_a_wrong_neighbour(monkeypatch: Environment) -> None:
    installed = module.installed
    monkeypatch.setattr(module, "installed", lambda name: "9.9.9" if name == "openyuanrong" else installed(name))
    found = run(healthy=False)["neighbours"]
    assert "openyuanrong 9.9.9" in found["what"]
    assert "pip uninstall openyuanrong" in found["todo"]


@pytest.mark.parametrize(("version", "level"), [(None, "wrong"), ("0.7.0", "note")])
def test_another_openyuanrong(version: str | None, level: str, monkeypatch: Environment) -> None:
    monkeypatch.setattr(module, "installed", lambda name: version if name == "openyuanrong-datasystem" else None)
    assert run(healthy=level != "wrong")["openYuanrong"]["level"] == level


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(1 << 42)  # a hole: nothing is on the disk
    found = run("--model", str(tmp_path), healthy=False)
    assert "4096.0 GiB" in found["memory"]["what"]


def test_a_model_that_fits(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 20))
    assert run("--model", str(tmp_path), healthy=True)["memory"]["level"] == "ok"


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--model", str(tmp_path)])
    assert done.exit_code == 1
    assert "error: INVALID_ARGUMENT: doctor: " in done.output


def test_little_lockable_memory(monkeypatch: Environment) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64 << 10, 64 << 10))
    found = run(healthy=True)
    assert (found["memlock"]["level"], found["memlock"]["todo"][:16]) == ("note", "`ulimit -l unlim")


def test_vllm_that_does_not_see_the_plugin(monkeypatch: Environment) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    assert run(healthy=False)["vLLM"]["level"] == "wrong"


def test_people_get_a_table() -> None:
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 0
    assert "what to do" in done.output
