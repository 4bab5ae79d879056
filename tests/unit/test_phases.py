"""The phases of a start: one line from launch to readiness, whatever its processes said."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yr_fastload_native.vllm import compat, phases, reports
from yr_fastload_native.vllm.phases import Phase, phases_of, trace_of

SERVER, ENGINE, RANKS = 1, 2, (3, 4)


def said(pid: int, name: str, at: float, born: float, **facts: Any) -> dict[str, Any]:
    return {"event": "phase", "pid": pid, "name": name, "at": at, "born": born, **facts}


def a_start(slow: float = 0.0) -> list[dict[str, Any]]:
    """Of an instance of two ranks, launched at 100; one of them is slow to compile."""
    ranks = [
        [
            said(pid, "imported", 124 + pid, 120),
            said(pid, "rank set up", 129, 120),
            said(pid, "model made", 130, 120),
            said(pid, "weights", 130.5, 120),
            said(pid, "processed", 131, 120),
            said(pid, "compiled", 140 + (slow if pid == 3 else 0), 120, cache="miss" if pid == 3 else "hit"),
            said(pid, "KV cache", 150, 120),
            said(pid, "warmed up", 151, 120),
        ]
        for pid in RANKS
    ]
    return [
        said(ENGINE, "imported", 119, 112, process="EngineCore"),
        {"event": "loading", "pid": 3},
        said(SERVER, "imported", 110, 101, process="MainProcess"),
        *itertools.chain(*ranks),
    ]


def test_a_start_is_one_line_and_its_slowest_rank_counts() -> None:
    found = phases_of(a_start(slow=2.0), 100.0, 160.0)
    assert [(each.name, each.seconds, each.pid) for each in found] == [
        ("launched", 1, SERVER),
        ("server imported", 9, SERVER),
        ("engine made", 10, 3),
        ("rank imported", 8, 4),
        ("rank set up", 1, 3),
        ("model made", 1, 3),
        ("weights", 0.5, 3),
        ("processed", 0.5, 3),
        ("compiled", 11, 3),
        ("KV cache", 8, 3),
        ("warmed up", 1, 3),
        ("server answers", 9, SERVER),
    ]
    assert sum(each.seconds for each in found) == 60
    assert {each.name: each.facts for each in found if each.facts} == {"compiled": {"cache": "miss"}}


def test_a_model_is_taken_before_its_server_is_launched() -> None:
    first, second, *_, last = phases_of([said(9, phases.MODEL_TAKEN, 100.5, 50), *a_start()], 100.0, 160.0)
    assert (first.name, first.seconds, first.pid) == ("model taken", 0.5, 9)
    assert (second.name, second.seconds) == ("launched", 0.5)
    assert last.pid == SERVER


def test_a_phase_has_what_was_said_of_it() -> None:
    came = {"source": "instance", "transport": "host"}
    events = [{**each, **came} if each.get("name") == "weights" else each for each in a_start()]
    assert {each.name: each.facts for each in phases_of(events, 100.0, 160.0)}["weights"] == came


def test_a_trace_has_each_start_from_its_launch() -> None:
    one, other = phases_of(a_start(), 100.0, 160.0), [Phase("server answers", 2.0)]
    events = trace_of([("one", one), ("other", other)])["traceEvents"]
    assert [(each["pid"], each["args"]["name"]) for each in events if each["ph"] == "M"] == [(1, "one"), (2, "other")]
    drawn = [each for each in events if each["ph"] == "X"]
    assert [each["name"] for each in drawn] == [each.name for each in (*one, *other)]
    ends = [each["ts"] + each["dur"] for each in drawn]
    assert [each["ts"] for each in drawn] == pytest.approx([0, *ends[: len(one) - 1], 0])
    assert max(ends) == pytest.approx(60e6)
    compiled = next(each for each in drawn if each["name"] == "compiled")
    assert (compiled["tid"], compiled["args"]) == (3, {"cache": "miss"})


@pytest.mark.parametrize("left_out", ["imported", "rank set up", "compiled", "weights"])
def test_what_nobody_said_is_in_the_next_phase(left_out: str) -> None:
    events = [each for each in a_start() if each.get("name") != left_out]
    assert sum(each.seconds for each in phases_of(events, 100.0, 160.0)) == 60


def test_clocks_that_disagree_make_no_negative_phase() -> None:
    found = phases_of(a_start(), 105.0, 140.0)
    assert all(each.seconds >= 0 for each in found)
    assert sum(each.seconds for each in found) == 35


def test_without_a_word_all_of_it_is_one_phase() -> None:
    assert phases_of([{"event": "loaded", "pid": 1}], 1.0, 3.0) == [Phase("server answers", 2.0)]


class Worker:
    def determine_available_memory(self) -> int:
        return 7

    def compile_or_warm_up_model(self) -> None:
        raise RuntimeError


def test_ranks_say_what_comes_after_loading(tmp_path: Path) -> None:
    report = tmp_path / "report"
    kind = type("Own", (Worker,), {})
    for _ in range(2):
        phases.follow(kind, str(report), lambda: {"cache": "hit"})
    assert kind().determine_available_memory() == 7
    with pytest.raises(RuntimeError):
        kind().compile_or_warm_up_model()
    (event,) = reports.events(report, "phase")
    assert (event["name"], event["cache"], event["pid"]) == ("compiled", "hit", os.getpid())
    assert 0 < event["born"] <= event["at"] <= phases.now()
    phases.follow(Worker, "", dict)
    assert Worker().determine_available_memory() == 7
    assert len(reports.events(report)) == 1


def test_the_class_of_ranks_is_the_one_that_a_config_names() -> None:
    def config(name: object) -> SimpleNamespace:
        return SimpleNamespace(parallel_config=SimpleNamespace(worker_cls=name))

    assert compat.worker_class(config("tests.unit.test_phases.Worker")).__name__ == "Worker"  # type: ignore[union-attr]
    assert compat.worker_class(config(Worker)) is Worker
    for name in ("auto", "no.such.module", "os.getpid", "", None):
        assert compat.worker_class(config(name)) is None
    assert compat.worker_class(SimpleNamespace()) is None
