"""The campaign's parts, each by itself: what they call wrong, and what they let pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chaos.clock import Clock, build_library
from chaos.key_checker import KeyChecker
from chaos.leak_checker import LeakChecker
from chaos.ledger import Ledger
from chaos.machine_stalls import MachineStalls
from chaos.tally import Tally
from chaos.verdict import Verdict

from chaos import schedule

LOADED = {"seconds": 0.1, "wrong": 0, "bytes": 7, "transport": "host"}
FAILED = {"seconds": 0.1, "error": "UNAVAILABLE", "memory_written": False}


class Stalls:
    """Of a machine that stood still for so long within every call."""

    def __init__(self, lag_s: float = 0.0) -> None:
        self._lag_s = lag_s

    def lag(self, since: float, until: float) -> float:
        return self._lag_s


class Node:
    def __init__(self, name: str) -> None:
        self.name = name

    def tail(self) -> str:
        return ""


def node(name: str = "node1") -> Any:
    return Node(name)


class Judge:
    """A verdict over one round, and what came of it."""

    def __init__(self, kind: str = "none", publish_as: str = "host", lag_s: float = 0.0) -> None:
        self.spec = schedule.draw(1, 0, kind, (publish_as,))
        self.tally = Tally(1)
        stalls: Any = Stalls(lag_s)
        self.verdict = Verdict(self.spec, self.tally, stalls)
        self.node = node()
        self.verdict.parts[self.node] = self.spec.readers[0]

    def load(self, answer: dict[str, Any], *, must_fail: bool = False) -> tuple[int, int, int]:
        """Wrong bytes, stalls, and unexpected ends."""
        self.verdict.load(self.node, answer, {"NOT_PUBLISHED"}, must_fail=must_fail)
        return self.tally.wrong_bytes, self.tally.stalls, self.tally.unexpected


@pytest.fixture
def judge() -> Judge:
    return Judge()


def test_what_passes(judge: Judge) -> None:
    assert judge.load(LOADED) == (0, 0, 0)
    assert judge.load(FAILED | {"error": "NOT_PUBLISHED"}) == (0, 0, 0)
    assert judge.tally.bytes_verified == 7
    assert judge.tally.good()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (LOADED | {"wrong": 3}, (3, 0, 0)),
        (LOADED | {"seconds": 60.0}, (0, 1, 0)),
        (FAILED, (0, 0, 1)),
        (FAILED | {"error": "NOT_PUBLISHED", "wrong": 2}, (2, 0, 0)),
        ({"unexpected": "Traceback", "seconds": 0.1}, (0, 0, 1)),
        ({"dead": True}, (0, 0, 1)),
        (FAILED | {"connecting": True, "seconds": 60.0}, (0, 1, 0)),
    ],
    ids=["bytes", "late", "another error", "written though it failed", "untyped", "dead", "connects late"],
)
def test_what_does_not(judge: Judge, answer: dict[str, Any], found: tuple[int, int, int]) -> None:
    assert judge.load(answer) == found
    assert not judge.tally.good()


def test_what_was_gone_is_not_found(judge: Judge) -> None:
    assert judge.load(LOADED, must_fail=True) == (0, 0, 1)


def test_who_was_stopped_has_as_much_more_time(judge: Judge) -> None:
    late = LOADED | {"seconds": judge.spec.deadline_s + 2.0}
    judge.verdict.frozen_s[judge.node] = 1.5
    assert judge.load(late) == (0, 0, 0)


def test_a_machine_that_stands_still_is_nobodys_fault() -> None:
    judge = Judge(lag_s=5.0)
    assert judge.load(LOADED | {"seconds": judge.spec.deadline_s + 5.5}) == (0, 0, 0)
    assert judge.load(FAILED) == (0, 0, 0)


@pytest.mark.parametrize(("kind", "dies"), [("reader.sigkill", True), ("reader.sigstop", False), ("none", False)])
def test_who_is_killed_may_die(kind: str, dies: bool) -> None:
    judge = Judge(kind)
    judge.verdict.expect_deaths(node("publisher"), judge.node)
    assert judge.load({"dead": True}) == (0, 0, not dies)


@pytest.mark.parametrize(("timeout_s", "stalls"), [(2.0, 1), (5.0, 0)])
def test_who_may_take_longer_to_connect_does_not_stall(judge: Judge, timeout_s: float, stalls: int) -> None:
    judge.spec.readers[0].settings["connect_timeout_s"] = timeout_s
    assert judge.load(FAILED | {"connecting": True, "seconds": 6.5}) == (0, stalls, 0)


def test_an_abandoned_transfer_is_looked_at_longer() -> None:
    judge = Judge(publish_as="d2d")
    judge.load(LOADED | {"retried": 1})
    assert judge.verdict.was_abandoned


def test_a_publish_may_fail_as_its_fault_allows(judge: Judge) -> None:
    assert not judge.verdict.publish(judge.node, FAILED, {"UNAVAILABLE"})
    assert not judge.verdict.publish(judge.node, FAILED, None)
    assert judge.verdict.publish(judge.node, {"seconds": 0.1, "generation": "g"}, frozenset())
    assert judge.tally.good()
    judge.verdict.publish(judge.node, FAILED, frozenset())
    assert judge.tally.unexpected == 1
    judge.verdict.publish(judge.node, FAILED | {"seconds": 60.0}, None)
    assert judge.tally.stalls == 1


HELD = {
    "threads": 10,
    "descriptors": 20,
    "mappings": 0,
    "private": 100 << 20,
    "connections_left_behind": 0,
    "threads_left_behind": 0,
}


class Workers:
    life = 0

    def __init__(self, there: set[str] | None = None) -> None:
        self.there = there or set()

    def exist(self, keys: list[str]) -> list[bool]:
        return [key in self.there for key in keys]


def checker() -> LeakChecker:
    stalls: Any = Stalls()
    nodes: Any = SimpleNamespace()
    workers: Any = Workers()
    made = LeakChecker(nodes, workers, Tally(1), stalls)
    opened = [HELD | {"threads": 14, "descriptors": 26, "mappings": 1}]
    made.calibrate([HELD], opened)
    return made


@pytest.mark.parametrize(
    ("more", "over"),
    [
        ({"threads": 34}, {}),
        ({"threads": 35}, {"threads": (35, 34)}),
        ({"descriptors": 24}, {"descriptors": (24, 23)}),
        ({"mappings": 1}, {"mappings": (1, 0)}),
        ({"mappings": 1, "descriptors": 29, "connections_left_behind": 1}, {}),
        ({"private": 165 << 20}, {"private": (165 << 20, 164 << 20)}),
        ({"threads_left_behind": 1}, {"threads_left_behind": (1, 0)}),
    ],
    ids=["pools", "threads", "descriptors", "mappings", "a connection left behind", "memory", "a thread left behind"],
)
def test_what_a_process_may_hold(more: dict[str, int], over: dict[str, tuple[int, int]]) -> None:
    assert checker()._over(HELD | more, gone=False) == over


def test_a_goodbye_to_a_worker_that_has_gone_is_waited_for() -> None:
    assert checker()._over(HELD | {"threads_left_behind": 1}, gone=True) == {}


def test_what_is_written_late_is_wrong() -> None:
    made = checker()
    spec = schedule.draw(1, 0, "none")
    made.judge_written(spec, node(), {"written": {"3": 0, "4": 5}})
    assert (made.tally.wrong_bytes, len(made.tally.problems)) == (5, 1)


def test_keys_that_stay_are_a_leak() -> None:
    workers: Any = Workers({"b"})
    tally = Tally(1)
    keys, user = KeyChecker(workers, tally), node()
    keys.expect_gone(schedule.draw(1, 0, "none"), ["a", "b"], [user], clean=True)
    keys.look({user})
    assert (keys.not_due, tally.leaks) == (2, 0)
    keys.look(set())
    keys._due[0].at = 0.0
    keys.look(set())
    assert (keys.not_due, keys.checked, tally.leaks) == (0, 2, 1)
    keys.expect_gone(schedule.draw(1, 1, "none"), ["b"], [], clean=True)
    workers.life = 1  # they were forgotten
    keys.look(set())
    assert (keys.not_due, keys.checked, tally.leaks) == (0, 2, 1)


WRITES = """
import sys
from pathlib import Path

from chaos.ledger import write_down

write_down(Path(sys.argv[1]))
import secrets
import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.settings.secret import Secret

sys.audit("yr_fastload_native.publish", Identity.of({"model": "a"}, op="x").digest, "1f", 3)
sys.audit("yr_fastload_native.serve", Identity.of({"model": "a"}, op="x").digest, Secret("70ken"))
sys.audit("yr_fastload_native.publish", Identity.of({"model": "b"}, op="x").digest, "2f", 1)
"""


def test_a_ledger_knows_all_keys_of_an_identity(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert Ledger(path, {"model": "a"}).manifests() == []
    subprocess.run([sys.executable, "-c", WRITES, path], check=True)
    ledger = Ledger(path, {"model": "a"})
    (manifest,) = ledger.manifests()
    assert manifest.endswith("-1f")
    assert len(ledger.chunks()) == 2 * 3
    kinds = {key.split("-")[1] for key in ledger.everything()}
    assert kinds == {"head", "manifest", "digests", "arrived", "chunk", "staged", "source", "place", "lane"}
    assert any("70ken" in key for key in ledger.everything())


def test_a_clock_jumps_for_who_uses_it_alone(tmp_path: Path) -> None:
    library = build_library(tmp_path)
    clock = Clock(tmp_path / "clock")
    clock.jump(-86400 * 40)
    script = "import time; print(time.time(), time.monotonic())"
    environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(clock.path)}
    shown = [
        [float(word) for word in done.stdout.split()]
        for done in (
            subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True, env=env)
            for env in ({}, environment)
        )
    ]
    assert -86400 * 40 <= shown[1][0] - shown[0][0] < -86400 * 40 + 60
    assert 0 <= shown[1][1] - shown[0][1] < 60


def test_a_stall_is_seen_and_a_quiet_time_is_none() -> None:
    stalls = MachineStalls()
    stalls._late = [(100.0, 0.5), (200.0, 2.0)]
    assert stalls.lag(0.0, 99.0) == 0.0
    assert stalls.lag(99.0, 101.0) == 0.5
    assert stalls.lag(0.0, 300.0) == 2.5
    assert stalls.lag(150.0, 199.0) == 2.0  # it began within
