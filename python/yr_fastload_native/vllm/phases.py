"""What the start of an instance took, phase by phase.

Its processes mark in the file of reports when they came to some point (event ``phase``), in seconds of this machine's
clock; whoever started the instance makes one line of it, from its launch to its readiness.
"""

from __future__ import annotations

import functools
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs

from yr_fastload_native.vllm import reports
from yr_fastload_native.worker.watcher import start_ticks

__all__ = [
    "MODEL_TAKEN",
    "PHASES",
    "Phase",
    "follow",
    "mark",
    "mark_imported",
    "now",
    "phases_of",
    "trace_of",
]

_log = logging.getLogger("vllm.yr_fastload")
_WRAPPED = "_yr_fastload_marks"
# What vLLM calls of a rank once its model is there, in this order, and what is done when each returns.
_OF_WORKER = {
    "determine_available_memory": "compiled",
    "initialize_from_config": "KV cache",
    "compile_or_warm_up_model": "warmed up",
}
# In the order of a start. Of ranks the slowest counts.
_SERVER = ("launched", "server imported")
_RANK = ("engine made", "rank imported", "rank set up", "model made", "weights", "processed", *_OF_WORKER.values())
_LAST = "server answers"
MODEL_TAKEN = "model taken"  # by whoever starts a server on a machine that has no directory of its model
PHASES = (MODEL_TAKEN, *_SERVER, *_RANK, _LAST)
_OF_MARKS = {"event", "pid", "name", "at", "born", "process"}  # what is not a fact
_imported = 0  # pid of the process that has said so


@attrs.frozen
class Phase:
    """One of a start's.

    Attributes:
        name: What was done when it ended.
        seconds: Since the one before ended.
        pid: Of the process in which it ended; None: not of one.
        facts: What there is to say of it. Of ``weights``: ``source``, and ``transport`` or ``fallback``. Of what may
            compile: ``cache``, how the rank came by what was compiled so far, and ``why`` it failed if it did.
    """

    name: str
    seconds: float
    pid: int | None = None
    facts: dict[str, Any] = attrs.field(factory=dict)


def now() -> float:
    """Seconds since this machine started: the clock by which the kernel tells when a process did."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def mark(report: str, name: str, **facts: Any) -> None:
    """Say that this process has come so far; nothing without a file of reports."""
    if not report:
        return
    born = (start_ticks(os.getpid()) or 0) / os.sysconf("SC_CLK_TCK")
    what = {"event": "phase", "pid": os.getpid(), "name": name, "at": now(), "born": born, **facts}
    try:
        reports.append(report, what)
    except OSError as error:
        _log.debug("cannot write to report=%r: %s", report, error)


def mark_imported(report: str) -> None:
    """Say that this process has imported vLLM, once."""
    global _imported
    if _imported != os.getpid():
        _imported = os.getpid()
        mark(report, "imported", process=multiprocessing.current_process().name)


def follow(worker: type, report: str, compiled: Callable[[], dict[str, Any]]) -> None:
    """Have a class of ranks mark what comes after a model is loaded. Idempotent.

    Args:
        worker: The class.
        report: Path of the file of reports; empty: nothing is done.
        compiled: Tells how it came by what was compiled so far.
    """
    if not report:
        return
    for method, name in _OF_WORKER.items():
        plain = getattr(worker, method, None)
        if plain is not None and not hasattr(plain, _WRAPPED):
            setattr(worker, method, _marking(plain, report, name, compiled))


def _marking(
    plain: Callable[..., Any], report: str, name: str, compiled: Callable[[], dict[str, Any]]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def marking(*args: Any, **kwargs: Any) -> Any:
        answer = plain(*args, **kwargs)
        mark(report, name, **compiled())
        return answer

    setattr(marking, _WRAPPED, True)
    return marking


def phases_of(events: Sequence[dict[str, Any]], launched: float, ready: float) -> list[Phase]:
    """The phases of a start, one after the other: their sum is what it took.

    Args:
        events: Of all its processes.
        launched: When it was launched, as `now` tells.
        ready: When it was ready.
    """
    marks = [each for each in events if each["event"] == "phase"]
    server = _of_server(marks)
    points = [*_of_launcher(marks), *server, *_of_ranks(marks)]
    ends = [min(max(at, launched), ready) for at, _ in points]
    ends = [launched, *itertools.accumulate(ends, max), ready]
    seconds = [end - begin for begin, end in itertools.pairwise(ends)]
    last = Phase(_LAST, seconds[-1], server[0][1].pid if server else None)
    return [attrs.evolve(phase, seconds=took) for (_, phase), took in zip(points, seconds, strict=False)] + [last]


def _of_launcher(marks: Sequence[dict[str, Any]]) -> list[tuple[float, Phase]]:
    return [(each["at"], Phase(MODEL_TAKEN, 0.0, each["pid"])) for each in marks if each["name"] == MODEL_TAKEN][:1]


def trace_of(starts: Iterable[tuple[str, Sequence[Phase]]]) -> dict[str, Any]:
    """A trace for chrome://tracing and https://ui.perfetto.dev: starts below one another, each from its launch.

    Args:
        starts: Name and phases of each.

    Source: "Trace Event Format", the JSON that Chrome and Perfetto read; times are microseconds.
    """
    events: list[dict[str, Any]] = []
    for number, (name, phases) in enumerate(starts, 1):
        events.append({"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}})
        ends = itertools.accumulate(phase.seconds for phase in phases)
        for phase, end in zip(phases, ends, strict=True):
            begin = {"ts": (end - phase.seconds) * 1e6, "dur": phase.seconds * 1e6}
            where = {"pid": number, "tid": phase.pid or 0}  # one line for each process of the instance
            events.append({"ph": "X", "name": phase.name, "cat": "start", **where, **begin, "args": phase.facts})
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _of_server(marks: Sequence[dict[str, Any]]) -> list[tuple[float, Phase]]:
    imported = [each for each in marks if each["name"] == "imported"]
    if not imported:
        return []
    first = min(imported, key=lambda each: each["at"])
    return [(first[key], Phase(name, 0.0, first["pid"])) for key, name in zip(("born", "at"), _SERVER, strict=True)]


def _of_ranks(marks: Sequence[dict[str, Any]]) -> list[tuple[float, Phase]]:
    """The last rank to come to each point; one that is passed more than once, as with a draft model, counts last."""
    ranks = {each["pid"] for each in marks if each["name"] == "rank set up"}
    points = []
    for name in _RANK:
        wanted, key = {"engine made": ("rank set up", "born"), "rank imported": ("imported", "at")}.get(
            name, (name, "at")
        )
        found = [each for each in marks if each["pid"] in ranks and each["name"] == wanted]
        if found:
            slowest = max(found, key=lambda each: each[key])
            facts = {key: value for key, value in slowest.items() if key not in _OF_MARKS}
            points.append((slowest[key], Phase(name, 0.0, slowest["pid"], facts)))
    return points
