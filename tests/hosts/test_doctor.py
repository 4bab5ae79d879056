"""What `yr-fastload doctor` and `worker status` say of a cluster."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from chaos.hosts.bed import ANSWER_S, Bed, Host

pytestmark = pytest.mark.worker


def doctor(host: Host, *options: str) -> dict[str, dict[str, Any]]:
    """What it finds on a host, by check; one of several that are called the same."""
    script = "import sys; from yr_fastload_native.cli import main; main(sys.argv[1:], standalone_mode=False)"
    told = host.run("env", f"DS_WORKER_ADDR={host.worker}", sys.executable, "-c", script, "doctor", "--json", *options)
    return {each["check"]: each for each in json.loads(told)["findings"]}


def test_a_cluster_that_is_well(cluster: Bed, tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(2 << 30)
    host, other = cluster.hosts[1], cluster.hosts[0]
    source = other.guest()
    assert "error" not in source.call("publish", ANSWER_S, model=uuid.uuid4().hex, size_mb=8)
    other.limit(100)
    try:
        found = doctor(host, "--link", "--model", str(tmp_path))
    finally:
        other.unlimit()
    assert found["cluster"]["what"].startswith("3 workers, says the directory at ")
    assert found["node timeouts"]["level"] == "ok"
    assert found["pool"]["level"] == "note"
    assert "--memory-mb 2560" in found["pool"]["todo"]
    assert found["link"]["level"] == "ok"
    assert found["clocks"]["level"] == "ok"


def test_the_rate_of_a_link_is_measured(cluster: Bed) -> None:
    host = cluster.hosts[2]
    host.limit(100)
    try:
        what = doctor(host, "--link")["link"]["what"]
    finally:
        host.unlimit()
    assert 0.05 < float(what.split(" sends ")[1].split(" ")[0]) <= 0.1, what


def test_what_is_not_well(bed: Bed) -> None:
    host, other = bed.hosts[:2]
    for each in (host, other):
        each.start_worker(node_timeout_s=60, node_dead_timeout_s=300)
    found = doctor(host)
    assert (found["node timeouts"]["level"], found["cluster"]["level"]) == ("note", "ok")
    assert "300 s" in found["node timeouts"]["what"]
    other.cut()
    found = doctor(host)
    assert found["cluster"]["level"] == "wrong"
    assert other.worker in found["cluster"]["what"]
