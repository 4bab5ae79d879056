"""Who shares a worker, who leaves it, and what ends it."""

import shutil

import psutil
import pytest

import yr_fastload_native as fl
from yr_fastload_native.worker import LocalWorker
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import strays

from .worker_homes import MEMORY_MB, assert_nothing_left, gone, run_python

pytestmark = pytest.mark.worker


@pytest.mark.long
def test_forked_child_does_not_stop_the_worker_of_its_parent(home):
    run_python(
        "import os; from yr_fastload_native.worker import LocalWorker\n"
        f"with LocalWorker(home={str(home)!r}, memory_mb={MEMORY_MB}) as shared:\n"
        "    child = os.fork()\n"
        "    shared.stop() if child == 0 else os.waitpid(child, 0)\n"
        "    os._exit(0) if child == 0 else None\n"
        f"    assert LocalWorker.status({str(home)!r})"
    )
    assert LocalWorker.status(home) is None


@pytest.mark.long  # unit/test_worker.py has it without openYuanrong
def test_who_joins_one_whose_directory_was_removed_is_told(home, caplog):
    with LocalWorker(home=home, memory_mb=MEMORY_MB) as worker:
        pid = LocalWorker.status(home).pid
        shutil.rmtree(home)
        with LocalWorker(home=home) as second, fl.FastLoader(fl.Config(worker=second.address)) as loader:
            assert second.address == worker.address
            assert f"somebody removed {home}" in caplog.text
            loader.publish({"w": bytearray(b"weights")}, {"model": "removed"})
            run_python(
                "import yr_fastload_native as fl; target = bytearray(7)\n"
                f"with fl.FastLoader(fl.Config(worker={second.address!r})) as loader:\n"
                "    loader.load({'w': target}, {'model': 'removed'})\n"
                "assert target == b'weights'"
            )
        assert LocalWorker.status(home).pid == pid
    assert gone(pid, within_s=0)
    home.mkdir(mode=0o700)


def is_watcher(arguments, pid):
    return len(arguments or ()) > 4 and arguments[3].endswith("watcher.py") and arguments[4] == str(pid)


def test_one_whose_watcher_was_killed_is_taken_over_and_not_killed(home):
    def watcher(pid):
        (found,) = [each for each in psutil.process_iter(["cmdline"]) if is_watcher(each.info["cmdline"], pid)]
        return found

    with LocalWorker(home=home, memory_mb=MEMORY_MB) as worker, fl.FastLoader(fl.Config(worker=worker.address)):
        pid = LocalWorker.status(home).pid
        first = watcher(pid)
        first.kill()
        assert gone(first.pid)
        assert worker.is_lost
        assert LocalWorker.status(home).pid == pid
        with LocalWorker(home=home) as second:
            assert second.address == worker.address
        assert LocalWorker.status(home).pid == pid, "who came before the watcher uses it still"
        worker.start()
        assert not worker.is_lost
        assert watcher(pid) != first
    assert gone(pid)
    assert_nothing_left(home, pid)


def test_last_user_stops_it_and_nothing_is_left(home, user):
    with LocalWorker(home=home, memory_mb=MEMORY_MB):
        pid = LocalWorker.status(home).pid
        other = user(home)
        assert other.worker_pid() == pid
    assert LocalWorker.status(home).pid == pid
    other.leave()
    assert_nothing_left(home, pid)


def test_users_that_start_together_get_one_worker_and_killing_them_ends_it(home, user):
    users = [user(home), user(home)]
    (pid,) = {each.worker_pid() for each in users}
    assert [each.pid for each in strays(Home(home).ready)] == [pid]
    for each in users:
        each.kill()
    assert gone(pid)
    LocalWorker(home=home).stop()
    assert_nothing_left(home, pid)
