"""Spans of a load, and the trace that is written of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from yr_fastload_native.reporting.timeline import STAGES, Span, Timeline, write_trace


def test_stages_are_summed_over_threads() -> None:
    timeline = Timeline()
    begin = time.monotonic()
    with timeline.stage("layout"):
        time.sleep(0.01)
    timeline.add([("fetch", 0, 0, begin, 0.5), ("copy", 0, 1, begin, 2.0), ("copy", 1, 2, begin + 1, 3.0)], [10, 20])
    seconds = timeline.seconds()
    assert list(seconds) == list(STAGES)
    assert seconds["layout"] >= 0.01
    assert (seconds["fetch"], seconds["copy"], seconds["digest"]) == (0.5, 5.0, 0.0)
    assert [(span.track, span.chunk, span.bytes) for span in timeline.spans[1:]] == [
        ("fetch", 0, 10),
        ("copy 1", 0, 10),
        ("copy 2", 1, 20),
    ]
    assert 0 <= timeline.spans[1].begin_s < 1


def test_a_stage_that_fails_has_its_span() -> None:
    timeline = Timeline()
    with pytest.raises(ValueError, match="no"), timeline.stage("manifest"):
        raise ValueError("no")
    assert [span.stage for span in timeline.spans] == ["manifest"]


def test_a_trace(tmp_path: Path) -> None:
    """What Perfetto asks for: complete events with process, thread, begin and duration in microseconds."""
    spans = [
        Span("layout", "caller", 0.0, 0.5),
        Span("copy", "copy 1", 1.0, 0.25, 3, 64),
        Span("fetch", "fetch", 0.5, 1),
    ]
    write_trace(tmp_path / "trace.json", [("first", spans), ("second", spans[:1])])
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {(1, 0): "caller", (1, 1): "fetch", (1, 2): "copy 1", (2, 0): "caller"}
    copy = next(event for event in events if event["name"] == "copy")
    assert (copy["ph"], copy["pid"], copy["tid"], copy["ts"], copy["dur"]) == ("X", 1, 2, 1e6, 0.25e6)
    assert copy["args"] == {"chunk": 3, "bytes": 64}
