"""Workers of a home of their own, and processes that use them."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native.worker import LocalWorker
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import kill_strays, start_ticks, strays

from ..waiting import wait_until

MEMORY_MB = 512
PACKAGES = str(Path(fl.__file__).parents[1])
USER = """
import sys
sys.path.insert(0, sys.argv[1])
from yr_fastload_native.worker import LocalWorker
with LocalWorker(home=sys.argv[2], memory_mb=512):
    print(LocalWorker.status(sys.argv[2]).pid, flush=True)
    sys.stdin.readline()
"""


class User:
    """Another process that uses the worker of a home until told to leave."""

    def __init__(self, home):
        arguments = [sys.executable, "-c", USER, PACKAGES, str(home)]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def worker_pid(self):
        return int(self.process.stdout.readline())

    def leave(self):
        self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def user():
    """Starts users, and kills those a failed test leaves."""
    users = []

    def start(home):
        users.append(User(home))
        return users[-1]

    yield start
    for each in users:
        if each.process.poll() is None:
            each.kill()


def run_python(code):
    code = f"import sys; sys.path.insert(0, {PACKAGES!r})\n{code}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def make_home():
    return Path(tempfile.mkdtemp(prefix="yrfl-", dir="/tmp"))


def clean(home):
    LocalWorker(home=home).stop(force=True)
    kill_strays(Home(home).ready)
    shutil.rmtree(home)


@pytest.fixture
def home():
    directory = make_home()
    yield directory
    clean(directory)


@pytest.fixture(scope="module")
def running():
    """A worker that the tests share, and that none of them may end. A proxy that nobody answers at is in their way."""
    directory = make_home()
    with pytest.MonkeyPatch.context() as environment:
        for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
            environment.setenv(name, "http://127.0.0.1:9")
        with LocalWorker(home=directory, memory_mb=MEMORY_MB):
            yield LocalWorker.status(directory)
    clean(directory)


def gone(pid, within_s=15.0):
    return wait_until(lambda: start_ticks(pid) is None, within_s)


def assert_nothing_left(home, pid):
    assert gone(pid, within_s=0)
    assert wait_until(lambda: not list(home.iterdir())), list(home.iterdir())
    assert strays(Home(home).ready) == []
    assert LocalWorker.status(home) is None
