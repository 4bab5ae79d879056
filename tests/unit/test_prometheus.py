"""What a process counts for Prometheus, and that what is written of it is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from prometheus_client.core import Metric

import yr_fastload_native as fl
from yr_fastload_native.reporting import prometheus
from yr_fastload_native.service.fleet import Fleet, Limits
from yr_fastload_native.service.metrics import ServiceMetrics
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until

ROOT = Path(__file__).parents[2]


def value(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(f"yr_fastload_{name}", labels) or 0.0


def test_loads_and_publications_are_counted(guest: fl.FastLoader, identity: dict[str, str]) -> None:
    names = (
        ("loads_total", {"transport": "host", "outcome": "OK"}),
        ("loads_total", {"transport": "", "outcome": "NOT_PUBLISHED"}),
        ("loaded_bytes_total", {"transport": "host"}),
        ("load_seconds_count", {"transport": "host"}),
        ("load_sources_sum", {}),
        ("publications_total", {"outcome": "OK"}),
        ("publications_total", {"outcome": "INVALID_ARGUMENT"}),
        ("published_bytes_total", {}),
    )
    before = [value(name, **labels) for name, labels in names]
    target = {"x": np.zeros(1000, np.uint8)}
    with pytest.raises(fl.NotPublishedError):
        guest.load(target, identity)
    with pytest.raises(fl.InvalidArgumentError):
        guest.publish({"x": "no tensor"}, identity)
    guest.publish({"x": np.ones(1000, np.uint8)}, identity)
    guest.load(target, identity)
    after = [value(name, **labels) for name, labels in names]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1000, 1, 1, 1, 1, 1000]
    assert value("load_stage_seconds_total", stage="layout") > 0


def test_leases_are_watched(
    open_loader: Callable[..., fl.FastLoader], store: MemoryStore, identity: dict[str, str]
) -> None:
    assert wait_until(lambda: not value("leases"))  # those of earlier tests are no longer counted
    with open_loader(lease_s=2) as first, open_loader(lease_s=2) as second:
        first.publish({"x": np.ones(1000, np.uint8)}, identity)
        second.load({"x": np.zeros(1000, np.uint8)}, identity)
        assert wait_until(lambda: value("leases") == 2)
        assert value("lease_age_seconds") < 2
        assert value("leases_in_trouble") == 0
        store.set_faults(unreachable=True)
        assert wait_until(lambda: value("lease_age_seconds") > 2)
        assert wait_until(lambda: value("leases_in_trouble") == 2)
        store.set_faults()
    assert wait_until(lambda: value("leases") == 0)
    assert wait_until(lambda: value("leases_in_trouble") == 0)


def test_a_process_without_prometheus_counts_nothing() -> None:
    code = "import sys; from yr_fastload_native.reporting import prometheus; prometheus.count(lambda m: 1 / 0)"
    subprocess.run([sys.executable, "-c", code + "; assert 'prometheus_client' not in sys.modules"], check=True)


def test_counting_that_fails_fails_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(prometheus, "_broken", False)
    prometheus.count(lambda made: 1 / 0)
    prometheus.count(lambda made: 1 / 0)
    assert [record.message for record in caplog.records] == ["Prometheus metrics are off from now on: division by zero"]


def test_ranks_are_counted_together(tmp_path: Path) -> None:
    """As in vLLM: its server shows what other processes counted."""
    code = """
import prometheus_client
from yr_fastload_native.reporting import prometheus
prometheus.count(lambda made: made.fallbacks.labels("UNAVAILABLE").inc())
"""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    show = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    shown = subprocess.run([sys.executable, "-c", show], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert 'yr_fastload_fallbacks_total{reason="UNAVAILABLE"} 2.0' in shown.stdout


class _Registry:
    """Takes down what is made."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()

    def __getattr__(self, kind: str):
        return lambda *told, **more: getattr(prometheus_client, kind)(*told, registry=self.registry, **more)


def test_the_page_and_the_dashboard_name_what_there_is() -> None:
    made = _Registry()
    prometheus.Metrics(made)
    found: list[Metric] = [*made.registry.collect(), *ServiceMetrics(Fleet(None, None, Limits())).collect()]
    names = {each.name + ("_total" if each.type == "counter" else "") for each in found}
    page = set(re.findall(r"^\| `(yr_fastload_\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    assert page == names
    dashboard = json.loads((ROOT / "deploy/grafana/yr-fastload.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name.removesuffix("_bucket") for expression in asked for name in re.findall(r"yr_fastload_\w+", expression)}
    assert used <= names
    assert used >= names - {"yr_fastload_load_sources", "yr_fastload_published_bytes_total"} - {
        "yr_fastload_instance_load_bytes",
        "yr_fastload_instance_ready_seconds",
    }
