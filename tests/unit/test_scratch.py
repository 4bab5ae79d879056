"""Directories of runs: who has one keeps it, and what a killed run left is swept up by the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.process.scratch import HOME, Scratch, scratch
from yr_fastload_native.worker.home import Home

_RUN = """
import os, subprocess, sys
from yr_fastload_native.process.scratch import Scratch
made = Scratch("serve")
if sys.argv[1] == "kept":
    subprocess.Popen(["sleep", "60"], pass_fds=[made.descriptor], stdout=2)
made.note_shared("instance-1", [int(sys.argv[2])])
(made.path / "socket").touch()
print(made.path, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR that is short."""
    with tempfile.TemporaryDirectory(prefix="yr-", dir="/tmp") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        monkeypatch.setenv("TMPDIR", made)
        yield Path(made)


def killed(how: str, shared_of: int) -> Path:
    """The directory of a run that was killed."""
    told = subprocess.run(
        [sys.executable, "-c", _RUN, how, str(shared_of)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert told.returncode == -signal.SIGKILL
    return Path(told.stdout.strip())


def test_it_goes_with_its_block(place: Path) -> None:
    with scratch("serve") as path:
        assert path.parent == place
        (path / "x").touch()
    assert not list(place.iterdir())


def test_what_a_killed_run_left_is_swept_up(place: Path) -> None:
    memory = SharedMemory(create=True, size=1)
    other = SharedMemory(create=True, size=1, name="yr-fastload-test-other")
    try:
        left = killed("alone", os.getpid())
        (place / "yr-fastload-run-file").touch()
        (place / "another").mkdir()
        with scratch("serve") as running:
            assert not left.exists()
            assert not Path("/dev/shm", memory.name).exists()
            assert Path("/dev/shm", other.name).exists()
            with scratch("serve"):
                assert running.exists()
        assert sorted(each.name for each in place.iterdir()) == ["another", "yr-fastload-run-file"]
    finally:
        other.close()
        other.unlink()
        memory.close()
        SharedMemory(create=True, size=1, name=memory.name).close()
        memory.unlink()


def test_who_has_the_descriptor_keeps_it(place: Path) -> None:
    left = killed("kept", os.getpid())
    with scratch("serve"):
        assert left.exists()
    (keeper,) = (int(each) for each in os.listdir("/proc") if each.isdigit() and holds(int(each), left))
    os.kill(keeper, signal.SIGKILL)
    for _ in range(100):
        with scratch("serve"):
            if not left.exists():
                break
    assert not left.exists()


def holds(pid: int, path: Path) -> bool:
    try:
        return str(path) in [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False


def test_a_long_place_is_left_for_one_that_sockets_fit_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = place / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with scratch("serve") as path:
        assert path.parent == Path("/tmp")
    with scratch("demo", sockets=False) as path:
        assert path.parent == long


def test_where_there_is_no_place_that_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) == str(place))
    with scratch("serve") as path:
        assert path.parent == place
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 80)
    with pytest.raises(UnavailableError, match=r"x, /tmp, .* at most \d+ characters; set TMPDIR to such a directory"):
        Scratch("serve")

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(UnavailableError, match=r"none of /tmp, .* set TMPDIR"):
        Scratch("demo")


def test_a_worker_that_still_has_its_home_in_one_keeps_it(place: Path) -> None:
    left = killed("alone", os.getpid())
    (left / HOME).mkdir()
    held = Home(left / HOME).hold(0, "test")
    with scratch("serve"):
        assert left.exists()
    os.close(held)
    with scratch("serve"):
        assert not left.exists()
