"""Fixtures of all tests: a real worker for the whole run, started when the first test asks for it."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chaos.clock import PAUSES, build_library

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.process.keeper import die_with_parent
from yr_fastload_native.worker import launch
from yr_fastload_native.worker.credentials import Credentials

pytest.register_assert_rewrite("tests.store_conformance")


def pytest_configure() -> None:
    """A process of pytest-xdist ends when the one that has started it is killed; its own then end by themselves."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        die_with_parent()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why a test that was run once more had failed, which pytest-rerunfailures keeps to itself."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"run once more: {report.nodeid}")
        terminalreporter.line(report.longreprtext)


@pytest.fixture(scope="session", autouse=True)
def local_worker_of_the_session() -> Iterator[None]:
    """Tests that run beside these, or somebody's work, have another one."""
    home = tempfile.mkdtemp(prefix="yrfl-", dir="/tmp")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YR_FASTLOAD_WORKER_HOME", home)
        yield
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and their processes remember of files is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A private directory whose path leaves room for the names of the worker's sockets."""
    directory = Path(tempfile.mkdtemp(prefix="yrfl-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


def start_worker(home: Path, memory_mb: int, port: int = 0, *, curve_key_dir: Path | None = None) -> fl.LocalWorker:
    with pytest.MonkeyPatch.context() as environment:
        # A sanitizer's runtime is for the interpreters that load the native module, not for the worker's binary.
        environment.delenv("LD_PRELOAD", raising=False)
        environment.setenv("LD_PRELOAD", str(_pauses()))
        # Processes of tests are killed, hundreds within the two minutes for which a client counts by default.
        environment.setitem(launch._FLAGS, "client_dead_timeout_s", "30")
        return fl.LocalWorker(home=home, memory_mb=memory_mb, port=port, curve_key_dir=curve_key_dir).start()


def _pauses() -> Path:
    """What keeps a thread of the worker from taking a core of tests with devices: pauses.cpp."""
    library = Path(os.environ["XDG_CACHE_HOME"], "pauses.so")
    return library if library.exists() else build_library(library.parent, PAUSES)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """Directory of a worker of the test's own: the paths of its sockets have to be short."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as home:
        yield Path(home)


@pytest.fixture(scope="session")
def worker() -> Iterator[str]:
    """Address of a worker that all tests share, also those of pytest-xdist's other processes; each test uses identities
    of its own.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
    home = Path("/tmp", f"yrfl-{run[:12]}")
    started = start_worker(home, 4096)
    try:
        yield started.address
    finally:
        started.stop()
        if fl.LocalWorker.status(home) is None:  # the last one
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def own_worker(short_tmp: Path) -> Iterator[fl.LocalWorker]:
    """A worker that the test may freeze, kill or fill."""
    started = start_worker(short_tmp, 512)
    try:
        yield started
    finally:
        started.stop(force=True)


@pytest.fixture
def start_again(short_tmp: Path) -> Iterator[Callable[[str], None]]:
    """Starts a worker where `own_worker` was."""
    started = []

    def again(address: str) -> None:
        started.append(start_worker(short_tmp, 512, int(address.rpartition(":")[2])))

    yield again
    for worker in started:
        worker.stop(force=True)


def open_store(config: fl.Config) -> _core.ObjectStore:
    """A test's own look into the store of a worker."""
    return _core.connect_host_store(Credentials.of(config).connection(config.worker, config))


@pytest.fixture
def store(config: fl.Config) -> _core.ObjectStore:
    """The store of the worker that all tests share."""
    return open_store(config)


@pytest.fixture
def identity() -> dict[str, str]:
    """An identity that no other test uses."""
    return {"model": "test", "unique": uuid.uuid4().hex}


@pytest.fixture
def config(worker: str) -> fl.Config:
    return fl.Config(worker=worker)


@pytest.fixture
def loader(config: fl.Config) -> Iterator[fl.FastLoader]:
    with fl.FastLoader(config) as opened:
        yield opened


@pytest.fixture
def other_loader(config: fl.Config) -> Iterator[fl.FastLoader]:
    """A second connection, as another process would have."""
    with fl.FastLoader(config) as opened:
        yield opened
