"""A worker's start, and how it fails."""

import os
import signal
import socket
import time

import pytest

import yr_fastload_native as fl
from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker import LocalWorker, launch
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import flags, strays

from .worker_homes import MEMORY_MB, gone

pytestmark = pytest.mark.worker


def test_start_clears_what_an_interrupted_start_left(home, user):
    interrupted = user(home)
    while not (found := [each for each in strays(Home(home).ready) if flags(each)]):
        time.sleep(0.05)
    interrupted.kill()
    assert LocalWorker.status(home) is None
    with LocalWorker(home=home, memory_mb=MEMORY_MB):
        pid = LocalWorker.status(home).pid
        assert pid != found[0].pid
        assert [each.pid for each in strays(Home(home).ready)] == [pid]
        os.kill(pid, signal.SIGKILL)
        assert gone(pid)
        assert LocalWorker.status(home) is None
    assert (home / "datasystem" / "logs").is_dir()


def test_worker_that_is_not_ready_in_time_is_ended(home):
    began = time.monotonic()
    with pytest.raises(UnavailableError, match=r"not ready within 1 s.*logs are in"):
        LocalWorker(home=home, memory_mb=MEMORY_MB, start_timeout_s=1).start()
    assert time.monotonic() - began < 5
    assert strays(Home(home).ready) == []


@pytest.mark.long
def test_a_worker_with_enough_clients_says_so(home, monkeypatch):
    monkeypatch.setitem(launch._FLAGS, "max_client_num", "1")
    with LocalWorker(home=home, memory_mb=MEMORY_MB) as worker:
        config = fl.Config(worker=worker.address, transport="host")
        with fl.FastLoader(config), pytest.raises(fl.ResourceExhaustedError, match=r"as many .*, its max_client_num"):
            fl.FastLoader(config)
        fl.FastLoader(config).close()


def test_worker_that_dies_says_why(home, monkeypatch):
    monkeypatch.setitem(launch._FLAGS, "nonsense", "1")
    with pytest.raises(UnavailableError, match=r"unknown command line flag 'nonsense'.*datasystem/logs"):
        LocalWorker(home=home, memory_mb=MEMORY_MB).start()
    assert strays(Home(home).ready) == []


@pytest.mark.long
def test_ports_lost_to_somebody_else_are_picked_again(home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        picks = iter([(taken, 1), (1, taken)])
        pick = launch._free_ports
        monkeypatch.setattr(launch, "_free_ports", lambda port: next(picks, None) or pick(port))
        with LocalWorker(home=home, memory_mb=MEMORY_MB) as worker:
            assert worker.address == LocalWorker.status(home).address
