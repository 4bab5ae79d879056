"""A real openYuanrong worker that several users share."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker import LocalWorker

from .worker_homes import MEMORY_MB, run_python

pytestmark = pytest.mark.worker


def test_worker_is_what_it_says(running):
    process = psutil.Process(running.pid)
    assert f"--worker_address={running.address}" in process.cmdline()
    assert f"--shared_memory_size_mb={MEMORY_MB}" in process.cmdline()
    assert (running.memory_mb, running.keep) == (MEMORY_MB, False)
    assert 0 < running.uptime_s < 300


def test_it_listens_on_loopback_only(running):
    sockets = psutil.Process(running.pid).net_connections(kind="inet")
    listening = [each.laddr for each in sockets if each.status == psutil.CONN_LISTEN]
    assert {f"127.0.0.1:{each.port}" for each in listening} == {running.address, running.metastore_address}
    assert {each.ip.removeprefix("::ffff:") for each in listening} == {"127.0.0.1"}


def test_nobody_else_can_read_its_files(running):
    assert running.home.stat().st_mode & 0o777 == 0o700


def test_it_stores_and_serves(running):
    host, port = running.address.split(":")
    run_python(
        "from yr.datasystem import KVClient; value = bytes(range(256)) * 4096\n"
        f"client = KVClient(host={host!r}, port={port}); client.init(); client.set('key', value)\n"
        "assert bytes(client.get(['key'])[0]) == value"
    )


def test_two_objects_of_one_process_share_it(running):
    first, second = (LocalWorker(home=running.home) for _ in range(2))
    with first, second:
        assert first.address == second.address == running.address
        assert first.start() is first
    with pytest.raises(UnavailableError, match="not started"):
        _ = first.address
    assert LocalWorker.status(running.home) == running


def test_another_process_joins_it_and_leaves_it_running(running, user):
    other = user(running.home)
    assert other.worker_pid() == running.pid
    other.leave()
    assert LocalWorker.status(running.home) == running


def test_killed_user_leaves_it_to_the_others(running, user):
    other = user(running.home)
    assert other.worker_pid() == running.pid
    other.kill()
    time.sleep(0.5)
    assert LocalWorker.status(running.home) == running


def test_a_user_without_a_home_hears_nothing_of_openyuanrong(running, short_tmp):
    """As with an arbitrary uid and HOME=/: its client writes its logs to stderr where it has no directory for them."""
    code = (
        "import yr_fastload_native as fl; target = bytearray(7)\n"
        f"with fl.FastLoader(fl.Config(worker={running.address!r})) as loader:\n"
        "    loader.publish({'w': bytearray(7)}, {'model': 'homeless'})\n"
        "    loader.load({'w': target}, {'model': 'homeless'})"
    )
    environment = os.environ | {"HOME": "/proc/nowhere", "YR_FASTLOAD_WORKER_HOME": str(short_tmp / "h")}
    environment.pop("DATASYSTEM_CLIENT_LOG_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert any((short_tmp / "h" / "client").iterdir())


def test_another_port_than_the_running_worker_has_is_refused(running):
    with pytest.raises(UnavailableError, match=rf"port 1 was asked for.*runs at {running.address}"):
        LocalWorker(home=running.home, port=1).start()


def test_larger_pool_than_the_running_worker_has_is_logged(running, caplog):
    with LocalWorker(home=running.home, memory_mb=MEMORY_MB + 1):
        assert f"has {MEMORY_MB} MiB, not {MEMORY_MB + 1}" in caplog.text
