"""Processes that are told and asked: fresh ones, and forked ones."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from tests.waiting import wait_until

from yr_fastload_native.errors import FastLoadError, TransferTimeoutError
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.fork_server import ForkServer

SOON_S = 60.0

Start = Callable[..., Process]


def is_gone(process: psutil.Process) -> bool:
    """Also if nobody asks for its status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(["decimal"], os.environ) as made:
        yield made


@pytest.fixture(params=["fresh", "forked"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a process in some role; it ends with the test."""
    server = request.getfixturevalue("server") if request.param == "forked" else None
    with contextlib.ExitStack() as stack:

        def begin(role: str, task: object = None, environment: dict[str, str] | None = None, **more: Any) -> Process:
            made = Process("test", "tests.unit.children", role, task, environment, server=server, **more)
            return stack.enter_context(made)

        yield begin


def test_it_is_told_and_tells(start: Start) -> None:
    process = start("echo", {"a": [1]}, os.environ | {"VALUE": "its own"})
    ready = process.expect("ready", SOON_S)
    assert ready == {"task": {"a": [1]}, "pid": process.pid, "value": "its own"}
    progress: list[tuple[int, int]] = []
    process.tell("something")
    assert process.expect("echo", SOON_S, lambda *done: progress.append(done)) == {"message": "something"}
    assert progress == [(1, 2)]
    assert "noise of a library" in process.tail()
    process.end()
    assert process.wait(0) == 0


def test_it_is_asked_and_answers(start: Start) -> None:
    process = start("commands", 40)
    assert process.call("add", SOON_S, number=2) == {"sum": 42}
    process.start("sleep", seconds=0.2)
    assert process.receive(0.01) is None
    assert process.finish(SOON_S) == {}
    process.end()


@pytest.mark.parametrize("kind", FastLoadError.__subclasses__())
def test_an_error_keeps_its_class(server: ForkServer, kind: type[FastLoadError]) -> None:
    with (
        Process("demo", "tests.unit.children", "fail", kind.code, server=server) as process,
        pytest.raises(kind, match="demo: fail: load: it failed"),
    ):
        process.expect("compared", SOON_S)


def test_silence_is_bounded(start: Start) -> None:
    process = start("echo")
    process.expect("ready", SOON_S)
    with pytest.raises(TransferTimeoutError, match="the echo did not get to 'compared' within 0 s"):
        process.expect("compared", 0.01)


def test_a_death_is_told_with_its_last_words(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    process = start("die", int(signal.SIGKILL))
    with pytest.raises(FastLoadError, match="the die ended with SIGKILL; what it wrote is above"):
        process.expect("anything", SOON_S)
    assert capsys.readouterr().err.endswith("the last words\n")
    with pytest.raises(EOFError):
        process.receive(SOON_S)
    process.tell("into the void")
    process.signal(signal.SIGTERM)


def test_a_call_that_raises_ends_it(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    process = start("commands")
    with pytest.raises(FastLoadError, match="ended with status 1"):
        process.call("raise_one", SOON_S)
    assert "RuntimeError: as it was told" in capsys.readouterr().err


def test_what_it_started_hides_no_end_and_goes_with_its_group(start: Start) -> None:
    process = start("leaves one behind", group=True)
    other = psutil.Process(process.expect("started", SOON_S)["pid"])
    process.tell("leave")
    with pytest.raises(FastLoadError, match="ended with status 3"):
        process.expect("anything", SOON_S)
    assert other.is_running()
    process.close()
    assert wait_until(lambda: is_gone(other), SOON_S)
    process.close()


def test_a_signal_ends_it_as_it_would_any(start: Start) -> None:
    process = start("commands")
    process.call("sleep", SOON_S, seconds=0)
    with pytest.raises(TransferTimeoutError, match="did not end within 0 s"):
        process.wait(0)
    process.signal(signal.SIGTERM)
    assert process.wait(SOON_S) == -signal.SIGTERM


def test_forked_ones_have_what_was_imported_and_end_with_the_server() -> None:
    server = ForkServer(["decimal"], os.environ)
    process = Process("test", "tests.unit.children", "commands", 1, server=server)
    try:
        assert process.call("add", SOON_S, number=1) == {"sum": 2}
        running = psutil.Process(process.pid)
        server.close()
        assert wait_until(lambda: is_gone(running), SOON_S)
    finally:
        process.close()
    with pytest.raises(FastLoadError, match="the process that others are forked from has ended"):
        Process("test", "tests.unit.children", "commands", 1, server=server)
