"""What a load did when: a span for each stage, and for each chunk within a stage."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

__all__ = ["STAGES", "Span", "Timeline", "breakdown", "write_trace"]

STAGES = ("layout", "manifest", "setup", "fetch", "copy", "digest", "sha256", "finish")

_CALLER = "caller"


@attrs.frozen
class Span:
    """A period that a thread spent on one stage.

    Attributes:
        stage: One of `STAGES`.
        track: The thread: ``"caller"``, ``"fetch"`` or ``"copy N"``.
        begin_s: Seconds since the load began.
        chunk: The chunk that it was spent on; None for all of them.
        bytes: Bytes processed in the stage.
    """

    stage: str
    track: str
    begin_s: float
    seconds: float
    chunk: int | None = None
    bytes: int = 0


class Timeline:
    """The spans of one load, which begins when this object is created."""

    def __init__(self) -> None:
        self._origin = time.monotonic()
        self.spans: list[Span] = []

    def elapsed_s(self) -> float:
        return time.monotonic() - self._origin

    @contextmanager
    def stage(self, name: str, size: int = 0) -> Iterator[None]:
        """Record the block as a span of the calling thread."""
        begin_s = self.elapsed_s()
        try:
            yield
        finally:
            self.spans.append(Span(name, _CALLER, begin_s, self.elapsed_s() - begin_s, None, size))

    def add(self, spans: Sequence[tuple[str, int, int, float, float]], sizes: Sequence[int]) -> None:
        """Add what the native core measured.

        Args:
            spans: Stage, chunk, thread (0 fetches), begin (monotonic clock) and duration in seconds.
            sizes: Bytes of each chunk.
        """
        for stage, chunk, thread, begin, seconds in spans:
            track = "fetch" if thread == 0 else f"copy {thread}"
            self.spans.append(Span(stage, track, begin - self._origin, seconds, chunk, sizes[chunk]))

    def seconds(self) -> dict[str, float]:
        """By stage, summed over threads; every stage has an entry."""
        total = dict.fromkeys(STAGES, 0.0)
        for span in self.spans:
            total[span.stage] += span.seconds
        return total


def breakdown(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """The cost of each stage that a load had, in the order of `STAGES`.

    Returns:
        For each ``stage``: ``seconds`` summed over threads, ``threads``, ``bytes``, and when its first span began and
            its last one ended, in seconds since the load began: ``begin_s``, ``end_s``.
    """
    rows = []
    for stage in STAGES:
        mine = [span for span in spans if span.stage == stage]
        if mine:
            rows.append(
                {
                    "stage": stage,
                    "seconds": sum(span.seconds for span in mine),
                    "threads": len({span.track for span in mine}),
                    "bytes": sum(span.bytes for span in mine),
                    "begin_s": min(span.begin_s for span in mine),
                    "end_s": max(span.begin_s + span.seconds for span in mine),
                }
            )
    return rows


def write_trace(path: str | os.PathLike[str], loads: Sequence[tuple[str, Sequence[Span]]]) -> None:
    """Write loads as a trace for chrome://tracing and https://ui.perfetto.dev, where overlap can be seen.

    Args:
        path: File to write, by convention ``.json``.
        loads: Name and spans (`LoadReport.spans`) of each.

    Source: "Trace Event Format", the JSON that Chrome and Perfetto read; times are microseconds.
    """
    events: list[dict[str, Any]] = []
    for process, (name, spans) in enumerate(loads, 1):
        tracks = list(dict.fromkeys([_CALLER, *sorted({span.track for span in spans} - {_CALLER}, key=_order)]))
        events.append({"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}})
        for number, track in enumerate(tracks):
            named = {"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": track}}
            events.append(named)
        for span in spans:
            events.append(
                {
                    "ph": "X",
                    "name": span.stage,
                    "cat": "load",
                    "pid": process,
                    "tid": tracks.index(span.track),
                    "ts": span.begin_s * 1e6,
                    "dur": span.seconds * 1e6,
                    "args": {"chunk": span.chunk, "bytes": span.bytes},
                }
            )
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))


def _order(track: str) -> tuple[bool, str]:
    return track != "fetch", track
