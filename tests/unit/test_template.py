"""Servers that are forked from a template are as if they had been started, and what goes wrong costs one start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.waiting import wait_until

from yr_fastload_native.service import template_process
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.learned import Learned
from yr_fastload_native.service.local import LocalLauncher, LocalServer
from yr_fastload_native.template.telling import Told

SERVED = str(Path(__file__).with_name("served.py"))
WAIT_S = 60.0
MARKED = "import os\nPID = os.getpid()\nVALUE = os.environ.get('MARKED')\nos.environ.setdefault('SET_BY_IMPORT', '1')\n"


class Fleet:
    """A launcher that forks, and servers that it was asked for."""

    def __init__(self, directory: Path, imports: tuple[str, ...]) -> None:
        self._directory = directory
        self._imports = imports
        self.launcher = LocalLauncher(directory / "logs", forks=True)
        self.servers: list[LocalServer] = []

    def launch(self, name: str, mode: str = "stay", **environment: str) -> LocalServer:
        environment = {"PYTHONPATH": str(self._directory), "MARKED": "as ever", **environment}
        arguments = [SERVED, str(self._directory / name), mode]
        server = self.launcher.launch(Order(name, arguments, environment, 2.0, imports=self._imports))
        self.servers.append(server)
        return server

    def forked(self, name: str, mode: str = "stay", **environment: str) -> LocalServer:
        server = self.launch(name, mode, **environment)
        assert server.from_template, server.not_forked
        return server

    def said(self, name: str) -> dict[str, Any]:
        path = self._directory / name
        assert wait_until(path.exists, WAIT_S), (self._directory / "logs" / f"{name}.log").read_text()
        return json.loads(path.read_text())

    def state(self) -> dict[str, Any]:
        state = self.launcher.template()
        assert state is not None
        return state

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        self.launcher.close()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Fleet]]:
    """Of servers whose template imports `marked`, and leaves nobody behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "marked.py").write_text(MARKED)
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    made: list[Fleet] = []

    def make(*imports: str) -> Fleet:
        made.append(Fleet(tmp_path, ("marked", *imports)))
        return made[-1]

    yield make
    for each in made:
        each.close()
    assert wait_until(lambda: {each.pid for each in psutil.Process().children(recursive=True)} <= before)


def gone(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_forked_server_is_its_own(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    servers = fleet()
    first, second = servers.launch("a", OWN="1"), servers.launch("b", "end", OWN="2")
    a, b = servers.said("a"), servers.said("b")
    for server, said, own in ((first, a, "1"), (second, b, "2")):
        assert (server.from_template, server.not_forked) == (True, None)
        assert said["marked"] == servers.state()["pid"]
        assert said["parent"] == server.pid
        assert said["session"] == said["pid"]
        assert said["environment"]["OWN"] == own
        assert said["environment"]["SET_BY_IMPORT"] == "1"
        assert said["stdin"] == os.devnull
        assert said["open"] == [os.devnull]
        assert said["sigterm"]
    assert a["arguments"][1:] == ["stay", "--host", "127.0.0.1", "--port", str(first.port)]
    assert a["random"] != b["random"]
    assert a["key"] != b["key"]
    assert wait_until(second.ended) == f"ended with status 7; the end of {tmp_path}/logs/b.log: it says this"
    assert first.ended() is None
    state = servers.state()
    assert (state["state"], state["forked"]) == ("ready", 2)
    assert state["private_bytes"] > 0
    first.stop()
    assert gone(a["pid"])


def test_four_at_once_are_four(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    with ThreadPoolExecutor(4) as threads:
        launched = list(threads.map(servers.launch, "abcd"))
    assert [each.not_forked for each in launched] == [None] * 4
    assert len({servers.said(name)["pid"] for name in "abcd"}) == 4


def test_one_that_is_replaced_while_it_is_asked_is_not_missed(
    fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = fleet()
    servers.forked("a")
    template = servers.launcher._template
    assert template is not None
    real = template_process.TemplateProcess.fork
    asked: list[template_process.TemplateProcess] = []

    def replaced(process: template_process.TemplateProcess, request: template_process.Request) -> object:
        asked.append(process)
        if len(asked) == 1:
            monkeypatch.setattr(template, "_lessons", 0)  # however many the first server has given by now
            template.learn(Told(("wave",)))
            assert wait_until(lambda: servers.state()["modules"] and template._process is not process)
            assert wait_until(lambda: process.ended)
        return real(process, request)

    monkeypatch.setattr(template_process.TemplateProcess, "fork", replaced)
    servers.forked("b")
    assert len(set(map(id, asked))) == 2
    assert servers.state()["reason"] is None


def test_one_that_is_stopped_at_once_is_gone(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    server = servers.forked("a")
    server.stop()
    assert wait_until(lambda: not psutil.pid_exists(server.pid))


def test_what_it_spawns_is_forked_and_as_if_it_were_spawned(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    servers.forked("a", "spawn")
    said = servers.said("a")
    child = said["child"]
    assert child["marked"] == said["marked"]  # it has not imported it again
    assert child["parent"] == said["pid"]
    assert child["status"] == 5
    assert child["sigterm"]
    assert SERVED not in child["open"]
    assert child["environment"] == said["environment"]


def test_what_would_import_otherwise_is_spawned_and_the_next_template_knows(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    server = servers.forked("a", "spawn with another value")
    said = servers.said("a")
    assert said["child"]["status"] == 6
    assert said["child"]["marked"] is None
    server._noted_s = -WAIT_S
    server.events()
    assert Learned.remembered(()).variables == {"MARKED": "another"}
    first = servers.state()["pid"]
    assert wait_until(lambda: servers.state()["state"] == "ready" and servers.state()["pid"] != first)
    servers.launch("b", "spawn with another value")
    said = servers.said("b")
    assert said["environment"]["MARKED"] == "as ever"
    assert said["child"]["environment"]["MARKED"] == "another"
    assert said["child"]["marked"] == said["marked"] != first


def test_what_servers_import_is_what_the_next_template_does(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    server = servers.forked("a", "learn")
    servers.said("a")
    first = servers.state()
    server.is_ready()

    def learned() -> bool:
        server._noted_s = -WAIT_S
        server.events()
        return "wave" in Learned.remembered(()).modules

    assert wait_until(learned)
    assert wait_until(lambda: servers.state()["state"] == "ready" and servers.state()["modules"] > first["modules"])
    servers.forked("b")
    assert gone(first["pid"])
    assert server.ended() is None


def test_another_environment_is_an_ordinary_start(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    servers.forked("a")
    for name, value in (("MARKED", "another"), ("OMP_NUM_THREADS", "3"), ("LD_LIBRARY_PATH", "/nowhere")):
        other = servers.launch(name, **{name: value})
        assert not other.from_template
        assert other.not_forked == f"the environment differs by {name}"
        said = servers.said(name)
        assert said["environment"][name] == value
        assert said["marked"] is None
    servers.forked("c")


def test_a_template_whose_files_change_is_made_again(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    servers = fleet()
    servers.forked("a")
    first = servers.state()["pid"]
    (tmp_path / "marked.py").write_text(MARKED + "\n")
    upgraded = servers.launch("b")
    assert upgraded.not_forked == f"{tmp_path}/marked.py has changed since it was imported"
    servers.forked("c")
    assert servers.state()["pid"] != first
    assert all(server.ended() is None for server in servers.servers)


def test_a_template_may_be_killed(fleet: Callable[..., Fleet]) -> None:
    servers = fleet()
    before = servers.forked("a")
    os.kill(servers.state()["pid"], signal.SIGKILL)
    assert wait_until(lambda: servers.state()["state"] == "none")
    assert before.ended() is None
    after = servers.forked("b")
    # And who looks after the first one, too: what that leaves is killed by the keeper of the template that has gone.
    server = servers.said("a")["pid"]
    os.kill(before.pid, signal.SIGKILL)
    assert wait_until(lambda: gone(server))
    assert "SIGKILL" in (wait_until(before.ended) or "")
    assert after.ended() is None


def test_a_template_that_stands_still_costs_one_ordinary_start(
    fleet: Callable[..., Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = fleet()
    servers.forked("a")
    monkeypatch.setattr(template_process, "_ANSWER_S", 1.0)
    stopped = servers.state()["pid"]
    os.kill(stopped, signal.SIGSTOP)
    started = time.monotonic()
    ordinary = servers.launch("b")
    assert time.monotonic() - started < WAIT_S / 2
    assert ordinary.not_forked is not None
    assert ordinary.not_forked.startswith("the template does not answer")
    with contextlib.suppress(ProcessLookupError):
        os.kill(stopped, signal.SIGCONT)  # what it was asked for meanwhile is not wanted any more
    monkeypatch.undo()
    servers.forked("c")
    assert servers.said("b")["marked"] is None
    assert wait_until(lambda: gone(stopped))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import os\ndef fail():\n    raise OSError(12, 'no memory')\nos.fork = fail",
            "cannot fork: [Errno 12] no memory",
        ),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            "threads run in it",
        ),
        ("raise SystemExit('it ends')", "it ends"),
    ],
    ids=["fork fails", "threads", "an import ends it"],
)
def test_what_cannot_be_forked_is_started_as_ever(
    fleet: Callable[..., Fleet], tmp_path: Path, code: str, why: str
) -> None:
    (tmp_path / "bad.py").write_text(code)
    servers = fleet("bad")
    for name in ("a", "b", "c", "d"):
        server = servers.launch(name)
        assert not server.from_template
        assert why in str(server.not_forked)
        assert servers.said(name)["marked"] is None
    assert servers.state()["forked"] == 0


def test_an_import_that_fails_is_left_out(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError")
    assert fleet("broken", "no_such_module").launch("a").from_template
