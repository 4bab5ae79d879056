"""Files that are read whole after their weights were exchanged: what is told, what is found, what follows."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from yr_fastload_native.checkpoints import known_digests
from yr_fastload_native.checkpoints import sample as sampling
from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.weight_files import named
from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.process.at_exit import close_all
from yr_fastload_native.vllm import session, verifying
from yr_fastload_native.vllm.publishing import Source
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.verifying import compare_later, tell_later, wait

GENERATION = "0123456789abcdef"


class Publication:
    generation = GENERATION
    closed = False

    def close(self) -> None:
        self.closed = True


class Fast:
    """A `FastLoader` of which the test says what others publish."""

    def __init__(self) -> None:
        self.theirs: list[dict[str, str] | Exception | None] = []
        self.told: dict[str, str] = {}
        self.held = Publication()

    def files(self, identity: object, generation: str) -> dict[str, str] | None:
        assert generation == GENERATION
        answer = self.theirs.pop(0) if len(self.theirs) > 1 else self.theirs[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def tell_files(self, publication: object, files: dict[str, str]) -> None:
        self.told = files

    def publication(self, identity: object) -> Publication:
        return self.held


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small files are as large ones, old enough, and nothing is known of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_digests, "_here", {})
    monkeypatch.setattr(sampling, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(sampling, "_LEAST_WHOLE_BYTES", 0)
    monkeypatch.setattr(verifying, "_POLL_S", 0.01)
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_000_000_000)
    yield
    assert wait(10)


def read(directory: Path, *contents: bytes) -> ReadFiles:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number}.bin" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return ReadFiles.of(named(paths, directory), deadline_s=5)


def sums(*contents: bytes) -> dict[str, str]:
    return {f"{number}.bin": hashlib.sha256(content).hexdigest() for number, content in enumerate(contents)}


def source_of(fast: Fast, files: ReadFiles | None, **extra: Any) -> Source:
    made: Any = fast
    return Source(made, {"model": "m"}, Settings.of(extra), files)


def happened(event: str) -> list[dict[str, Any]]:
    return [each for each in session.outcomes() if each["event"] == event]


@pytest.fixture(autouse=True)
def _own_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_outcomes", [])


def test_a_publisher_tells_what_it_did_not_know(tmp_path: Path) -> None:
    fast = Fast()
    source = source_of(fast, read(tmp_path / "model", b"a", b"b"))
    assert source.sums == {}
    publication: Any = Publication()
    tell_later(source, publication)
    assert wait(10)
    assert fast.told == sums(b"a", b"b")
    again = read(tmp_path / "model", b"a", b"c")  # 0.bin was written again, and has to be read again
    assert again.sums == {}


def test_files_that_are_the_same(tmp_path: Path) -> None:
    """The publisher knows one at first, then cannot be asked, then knows both."""
    fast = Fast()
    fast.theirs = [sums(b"a"), UnavailableError("gone", op="files"), sums(b"a", b"b")]
    compare_later(source_of(fast, read(tmp_path / "model", b"a", b"b")), GENERATION)
    assert wait(10)
    assert [each["files"] for each in happened("compared files")] == [["0.bin", "1.bin"]]
    assert not fast.held.closed


def test_files_that_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However alike their samples are."""
    fast = Fast()
    fast.theirs = [{}, sums(b"a", b"other")]
    compare_later(source_of(fast, read(tmp_path / "model", b"a", b"b")), GENERATION)
    assert wait(10)
    assert fast.held.closed
    assert [each["files"] for each in happened("wrong weights")] == [["1.bin"]]
    found = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "WRONG WEIGHTS: 1 files here are not those" in found[0].getMessage()
    assert "1.bin" in found[0].getMessage()
    assert read_again(tmp_path / "model").sums == sums(b"a", b"b")  # so that a new start does not pull them


def read_again(directory: Path) -> ReadFiles:
    return ReadFiles.of(named(directory.iterdir(), directory), deadline_s=5)


def test_another_generation_is_not_withdrawn(tmp_path: Path) -> None:
    fast = Fast()
    fast.held.generation = "fedcba9876543210"
    fast.theirs = [sums(b"other")]
    compare_later(source_of(fast, read(tmp_path / "model", b"a")), GENERATION)
    assert wait(10)
    assert happened("wrong weights")
    assert not fast.held.closed


def test_a_publisher_that_left_before_it_knew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fast = Fast()
    fast.theirs = [sums(b"a"), None]
    with caplog.at_level(logging.INFO, "vllm.yr_fastload"):
        compare_later(source_of(fast, read(tmp_path / "model", b"a", b"b")), GENERATION)
        assert wait(10)
    assert "1 of 2 files were not compared whole" in caplog.text


def test_a_file_that_changed_since_is_not_compared(tmp_path: Path) -> None:
    fast = Fast()
    fast.theirs = [sums(b"a", b"b")]
    files = read(tmp_path / "model", b"a", b"b")
    (tmp_path / "model" / "1.bin").write_bytes(b"another one")
    compare_later(source_of(fast, files), GENERATION)
    assert wait(10)
    (found,) = happened("compared files")
    assert (found["files"], found["lost"]) == (["0.bin"], ["1.bin"])


@pytest.mark.parametrize("why", ["off", "vouched for"])
def test_nothing_is_read(tmp_path: Path, why: str) -> None:
    files = read(tmp_path / "model", b"a")
    source = source_of(Fast(), files if why == "off" else None, **({"verify_files": "off"} if why == "off" else {}))
    publication: Any = Publication()
    tell_later(source, publication)
    compare_later(source, GENERATION)
    assert wait(0)
    assert files.sums == {}


def test_it_gives_way_and_ends_with_the_process(tmp_path: Path) -> None:
    fast = Fast()
    fast.theirs = [{}]
    compare_later(source_of(fast, read(tmp_path / "model", b"a")), GENERATION)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "yr-fastload-verify"]
    assert thread.native_id is not None
    until = time.monotonic() + 5
    while psutil.Process(thread.native_id).ionice().ioclass != psutil.IOPRIO_CLASS_IDLE:
        assert time.monotonic() < until
    assert os.getpriority(os.PRIO_PROCESS, thread.native_id) == 19
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) < 19
    assert psutil.Process().ionice().ioclass != psutil.IOPRIO_CLASS_IDLE
    close_all()
    assert not thread.is_alive()


def test_one_process_reads_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = Fast()
    files = read(tmp_path / "model", b"a")
    with known_digests.one_at_a_time() as mine:
        assert mine
        publication: Any = Publication()
        tell_later(source_of(fast, files), publication)
        time.sleep(0.05)
        assert not fast.told
        known_digests.remember(files.sampled[0].state, "0" * 64)  # what the other one read
    assert wait(10)
    assert fast.told == {"0.bin": "0" * 64}


def test_it_ends_the_process_if_asked_to(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_vllm_verifying as test
fast = test.Fast()
fast.theirs = [test.sums(b"other")]
files = test.read(Path({str(tmp_path)!r}), b"a")
files.sums.clear()
files.sums.update(test.sums(b"a"))
test.compare_later(test.source_of(fast, files, on_wrong="exit"), test.GENERATION)
test.time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == verifying.WRONG_STATUS, done.stderr
    assert "WRONG WEIGHTS" in done.stderr
