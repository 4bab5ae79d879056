"""What a template is made of: whether it may be forked, what it remembers, and how it is talked to."""

from __future__ import annotations

import multiprocessing.util
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yr_fastload_native.process import keeper
from yr_fastload_native.service.learned import Learned
from yr_fastload_native.template import fitness, lines, spawning
from yr_fastload_native.template.environment import ImportedWith, noted_reads
from yr_fastload_native.template.telling import Told

WAIT_S = 60.0


def test_devices_and_connections_make_it_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitness, "threads", list)
    ours = SimpleNamespace(anything_open=lambda: False)
    monkeypatch.setitem(sys.modules, "yr_fastload_native.process.at_exit", ours)
    cuda = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert fitness.unfit() is None
    ours.anything_open = lambda: True
    assert fitness.unfit() == "it is connected to openYuanrong"
    cuda.is_initialized = lambda: True
    assert fitness.unfit() == "torch.cuda is initialised in it"


@pytest.mark.parametrize("name", [b"jemalloc_bg_thd", None], ids=["takes a harmless name", "ends"])
def test_a_thread_that_is_about_to_be_harmless_is_waited_for(name: bytes | None) -> None:
    done = threading.Event()
    begun = threading.Event()

    def run() -> None:
        begun.set()
        time.sleep(0.2)
        if name is not None:
            keeper.take_name(name.decode())
            done.wait(WAIT_S)

    before = fitness.threads()
    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(WAIT_S)
    try:
        assert len(fitness._others()) == len(before) + 1
        assert fitness.threads() == before
    finally:
        done.set()
        thread.join(WAIT_S)


def test_reads_are_noted_and_what_is_handed_on_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "1")
    kind = type(os.environ)
    with noted_reads() as reads:
        assert os.environ["THERE"] == os.getenv("THERE") == os.environ.copy()["THERE"] == "1"
        assert "NOT_THERE" not in os.environ
        os.environ["WRITTEN"] = "1"
        del os.environ["WRITTEN"]
    assert reads == {"THERE", "NOT_THERE"}
    assert type(os.environ) is kind


def test_variables_differ_by_what_imports_made_of_them() -> None:
    imported = ImportedWith(
        frozenset(["READ", "SET", "GIVEN"]),
        {"READ": "1", "GIVEN": "for the template", "GONE": "1", "LD_PRELOAD": "a"},
        {"READ": "1", "GIVEN": "for the template", "SET": "by import", "LD_PRELOAD": "a"},
        {"GIVEN": None},
    )
    plain = {"READ": "1", "GONE": "1", "LD_PRELOAD": "a", "OTHER": "x"}
    assert imported.differing(plain) == []
    assert imported.differing({**plain, "SET": "by import", "GIVEN": "for the template"}) == []
    assert imported.differing({**plain, "READ": "2", "SET": "otherwise", "GIVEN": "", "LD_PRELOAD": "b"}) == [
        "GIVEN",
        "LD_PRELOAD",
        "READ",
        "SET",
    ]
    assert imported.as_imported(plain) == {"READ": "1", "SET": "by import", "LD_PRELOAD": "a", "OTHER": "x"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"modules": [1], "variables": {}}', '{"modules": "os"}'])
def test_what_was_remembered_and_is_damaged_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    guess = Learned(("os",))
    learned = guess.with_told(Told(("json", "os"), {"A": None}))
    learned.remember()
    assert Learned.remembered(("x",)) == learned == Learned(("json", "os"), {"A": None})
    assert learned.with_told(Told(("os",), {"A": None})) is learned
    (path,) = tmp_path.rglob("*.json")
    path.write_text(text)
    assert Learned.remembered(("os",)) == guess
    learned.remember()
    path.chmod(0o666)  # others could have it import what they like
    assert Learned.remembered(("os",)) == guess


def test_what_is_not_multiprocessing_s_or_would_differ_is_spawned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spawned: list[str] = []
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", lambda path, args, fds: spawned.append(args[-2]))
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forks"))
    monkeypatch.setattr(fitness, "threads", lambda: ["foreign"])
    monkeypatch.setenv("READ", "2")
    environ = dict(os.environ)

    def install(read: str) -> Any:
        before = {**environ, "READ": read}
        spawning.install(ImportedWith(frozenset(["READ"]), before, before), told.append, lambda: None)
        return multiprocessing.util.spawnv_passfds

    mine, other = os.fsencode(sys.executable), b"/usr/bin/numactl"
    worker = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
    tracker = "from multiprocessing.resource_tracker import main;main(3)"
    same, another = install("2"), install("1")
    for call, path, code in ((same, mine, tracker), (same, other, worker), (same, mine, worker)):
        call(path, ["python", "-c", code, "--multiprocessing-fork"], [5, 7])
    assert not told
    another(mine, ["python", "-c", worker, "--multiprocessing-fork"], [5, 7])
    assert told == [{"variables": {"READ": "2"}}]
    assert spawned == [tracker, worker, worker, worker]


def test_an_answer_may_be_there_before_the_question_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    real = socket.send_fds

    def answered(line: socket.socket, data: list[bytes], descriptors: list[int]) -> int:
        sent = real(line, data, descriptors)
        with other:
            assert lines.receive_first(other, 1) == ({}, [])
            lines.send(other, {"pid": 1})
        return sent

    monkeypatch.setattr(socket, "send_fds", answered)
    with one:
        lines.send_first(one, {}, ())
        assert lines.receive(one) == {"pid": 1}


def test_lines_bring_messages_and_files(tmp_path: Path) -> None:
    ends: tuple[socket.socket, socket.socket] = socket.socketpair()
    with ends[0] as one, ends[1] as other, (tmp_path / "x").open("w") as file:
        big = {"environment": {"A": "x" * 300_000}}
        with ThreadPoolExecutor(1) as threads:
            sent = threads.submit(lines.send_first, one, big, (file.fileno(),))
            message, (descriptor,) = lines.receive_first(other, 4)
            sent.result()
        assert message == big
        assert os.fstat(descriptor).st_ino == os.stat(tmp_path / "x").st_ino
        os.close(descriptor)
        lines.send(other, {"pid": 1})
        other.sendall(b"\1")
        assert lines.receive(one) == {"pid": 1}
        assert one.recv(1) == b"\1"
        other.sendall(b"[]\n")
        with pytest.raises(ValueError, match="an object"):
            lines.receive(one)
        other.close()
        with pytest.raises(ConnectionResetError):
            lines.receive(one)
