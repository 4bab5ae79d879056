"""LocalWorker with a real openYuanrong worker."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import yr_fastload_native as fl
from yr_fastload_native.cli.worker import worker as command
from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker import LocalWorker, launch
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.memory import huge_pages_mb
from yr_fastload_native.worker.process import flags, kill_strays, start_ticks, strays

from ..waiting import wait_until

pytestmark = pytest.mark.worker

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


def is_watcher(arguments, pid):
    return len(arguments or ()) > 4 and arguments[3].endswith("watcher.py") and arguments[4] == str(pid)


def assert_nothing_left(home, pid):
    assert gone(pid, within_s=0)
    assert wait_until(lambda: not list(home.iterdir())), list(home.iterdir())
    assert strays(Home(home).ready) == []
    assert LocalWorker.status(home) is None


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


def test_command_line_keeps_the_worker_until_it_is_stopped(home):
    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(command, [*arguments, "--home", str(home)], catch_exceptions=False)
        assert result.exit_code == exit_code
        return result.output

    assert json.loads(run("status", "--json", exit_code=1)) == {"running": False}
    assert "no worker is running" in run("status", exit_code=1)
    started = json.loads(run("start", "--memory-mb", str(MEMORY_MB), "--json"))
    assert started["running"]
    assert started["keep"]
    with LocalWorker(home=home, keep=False) as worker:
        assert worker.address == started["address"]
    assert f"export DS_WORKER_ADDR={started['address']}" in run("status")
    again = json.loads(run("status", "--json"))
    assert again.pop("uptime_s") >= started.pop("uptime_s")
    assert again == started
    assert json.loads(run("stop", "--json")) == {"stopped": True}
    assert_nothing_left(home, started["pid"])
    assert "no worker was running" in run("stop")


def start_by_command(home, *options, exit_code=0):
    asked = ["start", "--memory-mb", str(MEMORY_MB), *options, "--home", str(home), "--json"]
    result = CliRunner().invoke(command, asked, catch_exceptions=False, standalone_mode=False)
    assert result.exit_code == exit_code, result.output
    return json.loads(result.output)


def taken_mb(pid, what):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) >> 10


def publish_and_load(address, model):
    config = fl.Config(worker=address, transport="host")
    source, target = {"w": np.arange(1 << 20)}, {"w": np.zeros(1 << 20, np.int64)}
    with fl.FastLoader(config) as first, fl.FastLoader(config) as second:
        first.publish(source, {"model": model})
        second.load(target, {"model": model})
    assert (source["w"] == target["w"]).all()


def test_a_pool_that_is_taken_at_once(home):
    """At the port that was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = start_by_command(home, "--populate", "--port", str(port))
    assert started["address"] == f"127.0.0.1:{port}"
    assert taken_mb(started["pid"], "RssShmem") == MEMORY_MB
    publish_and_load(started["address"], "populated")


def free_huge_pages():
    try:
        return huge_pages_mb(MEMORY_MB)
    except fl.ResourceExhaustedError:
        return 0


@pytest.mark.skipif(not free_huge_pages(), reason=f"no huge pages are reserved: sysctl -w vm.nr_hugepages={MEMORY_MB}")
@pytest.mark.parametrize("more", [(), ("--populate",)])
def test_huge_pages(home, more):
    started = start_by_command(home, "--huge-pages", *more)
    publish_and_load(started["address"], "huge")
    assert taken_mb(started["pid"], "HugetlbPages") >= (MEMORY_MB if more else 8)


@pytest.mark.skipif(bool(free_huge_pages()), reason="there are huge pages")
def test_huge_pages_that_nobody_reserved_are_refused_at_once(home):
    began = time.monotonic()
    with pytest.raises(fl.ResourceExhaustedError, match=rf"not {MEMORY_MB}; reserve them with `sysctl -w vm.nr_huge"):
        start_by_command(home, "--huge-pages")
    assert time.monotonic() - began < 5
    assert strays(Home(home).ready) == []


def test_who_published_publishes_again_when_the_worker_was_killed(home):
    settings = {"worker_home": str(home), "worker_memory_mb": MEMORY_MB, "transport": "host"}
    config = fl.Config(**settings)
    kept, changed = np.arange(1000.0), np.arange(2000.0)
    with fl.FastLoader(config) as first, fl.FastLoader(config) as second:
        publication = first.publish({"w": kept}, {"model": "kept"})
        other = first.publish({"w": changed}, {"model": "changed"})
        target = np.zeros(1000)
        second.load({"w": target}, {"model": "kept"})
        pid = LocalWorker.status(home).pid
        changed[0] = 7
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: publication.state == "lost", 5)
        assert wait_until(lambda: publication.state == "live", 30)
        assert LocalWorker.status(home).pid != pid
        assert wait_until(lambda: second.publication({"model": "kept"}).state == "live", 30)
        assert first.worker == second.worker == LocalWorker.status(home).address
        with fl.FastLoader(config) as third:
            fresh = np.zeros(1000)
            third.load({"w": fresh}, {"model": "kept"})
            assert (fresh == kept).all()
            assert not third.is_published({"model": "changed"})
        assert other.state == "lost"
        assert publication.sources() == 2
    assert LocalWorker.status(home) is None


def test_nobody_starts_another_where_the_worker_was_stopped_on_purpose(home):
    config = fl.Config(worker_home=str(home), worker_memory_mb=MEMORY_MB, transport="host")
    weights = {"w": np.ones(9)}
    with fl.FastLoader(config) as first:
        publication = first.publish(weights, {"model": "stopped"})
        run_python(
            f"from yr_fastload_native.worker import LocalWorker; LocalWorker(home={str(home)!r}).stop(force=True)"
        )
        assert wait_until(lambda: publication.state == "lost", 5)
        time.sleep(1)
        assert strays(Home(home).ready) == []
        assert not first.is_published({"model": "stopped"}), "who asks for one gets one"
        assert wait_until(lambda: publication.state == "live", 10)


def test_a_loader_without_a_worker_starts_one_and_shares_it(home, monkeypatch):
    """`worker="auto"` without DS_WORKER_ADDR: one worker a machine and user, gone with its last loader."""
    monkeypatch.delenv("DS_WORKER_ADDR", raising=False)
    monkeypatch.setenv("YR_FASTLOAD_WORKER_HOME", str(home))
    config = fl.Config(worker_memory_mb=MEMORY_MB)
    first = fl.FastLoader(config)
    second = fl.FastLoader(config)
    pid = LocalWorker.status().pid
    assert first.worker == second.worker == LocalWorker.status().address
    first.publish({"w": bytearray(b"weights")}, {"model": "auto"})
    target = bytearray(7)
    second.load({"w": target}, {"model": "auto"})
    assert target == b"weights"
    first.close()
    assert LocalWorker.status().pid == pid
    second.close()
    assert LocalWorker.status() is None
    assert gone(pid)
