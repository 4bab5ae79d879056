"""A span for each load and publish, where somebody traces."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import yr_fastload_native as fl


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def test_spans(guest: fl.FastLoader, identity: dict[str, str], spans: InMemorySpanExporter) -> None:
    target = {"x": np.zeros(1000, np.uint8)}
    with pytest.raises(fl.NotPublishedError):
        guest.load(target, identity)
    guest.publish({"x": np.ones(1000, np.uint8)}, identity)
    guest.load(target, identity)
    refused, published, loaded = spans.get_finished_spans()
    assert [span.name for span in (refused, published, loaded)] == [
        "yr_fastload.load",
        "yr_fastload.publish",
        "yr_fastload.load",
    ]
    assert not refused.status.is_ok
    assert refused.events[0].attributes["exception.type"].endswith("NotPublishedError")
    assert published.attributes["yr_fastload.bytes"] == 1000
    assert loaded.attributes["yr_fastload.transport"] == "host"
    assert loaded.attributes["yr_fastload.verified"]
    assert loaded.attributes["yr_fastload.stage.layout_s"] > 0


def test_a_process_that_does_not_trace_imports_nothing() -> None:
    code = "import sys, yr_fastload_native; assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
