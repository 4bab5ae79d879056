"""What LocalWorker refuses or decides before any worker runs."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from yr_fastload_native.worker import LocalWorker, WorkerStatus, launch, memory
from yr_fastload_native.worker.door import Door
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import start_ticks

from ..waiting import wait_until

MIB = 1 << 20


@pytest.fixture
def home(tmp_path):
    """A private directory with a short path, whatever the name of the test."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("bad", [{"port": -1}, {"port": 65536}, {"memory_mb": -1}, {"start_timeout_s": 0}])
def test_numbers_out_of_range_are_refused_by_name(home, bad):
    with pytest.raises(InvalidArgumentError, match=next(iter(bad))):
        LocalWorker(home=home, **bad)


def test_home_has_room_for_the_sockets():
    longest = "/tmp/" + "h" * (80 - len("/tmp/") - len("/datasystem/uds"))
    LocalWorker(home=longest)
    with pytest.raises(InvalidArgumentError, match="1 characters too long"):
        LocalWorker(home=longest + "h")


def test_home_with_characters_that_dscli_refuses():
    with pytest.raises(InvalidArgumentError, match="dscli refuses"):
        LocalWorker(home="/tmp/a$b")


def test_default_home_is_that_of_the_user_whatever_the_temporary_directory(monkeypatch, home):
    monkeypatch.delenv("YR_FASTLOAD_WORKER_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    first = Home(None)
    assert first.path == home / f"yr-fastload-{os.getuid()}"
    assert Home(first.path).key == first.key
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert Home(None).key == first.key != Home(home).key
    monkeypatch.setenv("YR_FASTLOAD_WORKER_HOME", str(home / "other"))
    assert Home(None).path == home / "other"


def test_default_home_is_elsewhere_where_the_temporary_directory_is_no_place_for_sockets(monkeypatch, home):
    monkeypatch.delenv("YR_FASTLOAD_WORKER_HOME", raising=False)
    deep = home / ("d" * 80)
    deep.mkdir()
    for unfit in (str(deep), str(home / "missing")):
        monkeypatch.setattr(tempfile, "tempdir", unfit)
        assert Home(None).path == Path(f"/tmp/yr-fastload-{os.getuid()}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UnavailableError, match=r"none of .*, /tmp.* is writable.*TMPDIR"):
        Home(None)


def test_a_home_reached_by_a_link_is_the_same(home):
    (home / "real").mkdir()
    (home / "link").symlink_to(home / "real")
    assert Home(home / "link" / "h").key == Home(home / "real" / "h").key


@pytest.mark.parametrize("use", [LocalWorker.status, lambda home: LocalWorker(home=home).start()])
def test_home_open_to_others_is_refused(home, use):
    home.chmod(0o750)
    with pytest.raises(UnavailableError, match=r"open to others \(mode 0750\).*chmod 700"):
        use(home)


@pytest.mark.parametrize("use", [LocalWorker.status, lambda home: LocalWorker(home=home).start()])
def test_home_that_is_a_link_is_refused(home, use):
    (home / "link").symlink_to(home)
    with pytest.raises(UnavailableError, match="symbolic link"):
        use(home / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_home_of_somebody_else_is_refused(home):
    os.chown(home, 12345, -1)
    with pytest.raises(UnavailableError, match="belongs to user 12345"):
        LocalWorker.status(home)


def test_nothing_runs_and_stop_is_harmless(home):
    absent = home / "absent"
    assert LocalWorker.status(absent) is None
    LocalWorker(home=absent).stop(force=True)
    assert not absent.exists()
    with pytest.raises(UnavailableError, match="not started"):
        _ = LocalWorker(home=absent).address


@pytest.fixture
def watched(home):
    """A process that stands for the worker of a home, with its watcher at the door."""
    (home / "datasystem" / "uds").mkdir(parents=True)
    door = Door(Home(home).key, UnavailableError)
    process = subprocess.Popen(["sleep", "60"])
    facts = {
        "address": "127.0.0.1:1",
        "metastore_address": "127.0.0.1:2",
        "pid": process.pid,
        "start_ticks": start_ticks(process.pid),
        "memory_mb": 512,
        "home": str(home),
        "keep": False,
    }
    with door.bind() as listener:
        lock = Home(home).hold(0, "")
        door.leave_to_watcher(listener, lock, facts, data=home / "datasystem", adopted=False)
        os.close(lock)
    yield process
    process.kill()
    process.wait()


def test_a_worker_is_found_and_lives_though_its_directory_is_removed(home, watched):
    first = LocalWorker(home=home).start()
    shutil.rmtree(home)
    with LocalWorker(home=home) as second:
        assert second.address == first.address
        assert LocalWorker.status(home).pid == watched.pid
    assert watched.poll() is None
    assert not first.is_lost
    first.stop()
    assert watched.wait(10) == -signal.SIGKILL


def test_a_worker_goes_with_the_last_process_that_has_its_user_s_connection(home, watched):
    worker = LocalWorker(home=home).start()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    worker.stop()
    assert watched.poll() is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert watched.wait(10) == -signal.SIGKILL


def test_one_to_be_kept_outlives_its_users_until_it_is_stopped(home, watched):
    LocalWorker(home=home, keep=True).start().stop()
    assert LocalWorker.status(home).keep
    assert watched.poll() is None
    LocalWorker(home=home).stop()
    assert watched.poll() is None
    LocalWorker(home=home).stop(force=True)
    assert watched.wait(10) == -signal.SIGTERM
    assert LocalWorker.status(home) is None
    assert not (home / "datasystem").exists()


def test_a_user_learns_that_the_worker_died_and_its_logs_stay(home, watched):
    (home / "datasystem" / "logs").mkdir()
    worker = LocalWorker(home=home).start()
    assert not worker.is_lost
    watched.kill()
    watched.wait()
    assert wait_until(lambda: worker.is_lost, 5)
    assert not worker.was_stopped
    assert os.listdir(home / "datasystem") == ["logs"]
    worker.stop()


def test_a_user_learns_that_the_worker_was_stopped_on_purpose(home, watched):
    worker = LocalWorker(home=home).start()
    LocalWorker(home=home).stop(force=True)
    assert worker.is_lost
    assert worker.was_stopped
    assert not worker.rejoin(1, may_launch=False)


def test_a_directory_that_another_container_s_worker_uses_is_left_alone(home, monkeypatch):
    held = Home(home).hold(0, "")
    (home / "datasystem").mkdir()
    with pytest.raises(UnavailableError, match=r"used by a worker that cannot be reached.*another TMPDIR"):
        LocalWorker(home=home, start_timeout_s=0.1).start()
    assert (home / "datasystem").exists()
    os.close(held)


def test_waiting_for_another_that_starts_or_stops_it_is_bounded(home):
    with Door(Home(home).key, UnavailableError).bind():
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="another process has been starting or stopping"):
            LocalWorker(home=home, start_timeout_s=0.3).start()
        assert time.monotonic() - began < 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_a_name_that_somebody_else_has_taken_is_not_believed(home):
    name = Door(Home(home).key, UnavailableError)._name
    posing = (
        "import os, socket, sys; os.setuid(12345); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s.bind(bytes.fromhex(sys.argv[1])); s.listen(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", posing, name.encode().hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(UnavailableError, match=f"taken by pid {other.pid} of user 12345"):
            LocalWorker(home=home).start()
        other.communicate()


def test_status_knows_its_age():
    status = WorkerStatus("", "", os.getpid(), start_ticks(os.getpid()), 0, Path(), False)
    own_age = time.time() - psutil.Process().create_time()
    assert status.uptime_s == pytest.approx(own_age, abs=2)


def test_port_that_is_taken_is_named_with_its_listener(home):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UnavailableError, match=rf"127\.0\.0\.1:{port}.*pid {os.getpid()}.*another port"):
            LocalWorker(home=home, port=port, memory_mb=256).start()
    assert LocalWorker.status(home) is None


def test_missing_dscli_says_how_to_install_it(home, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match=r"pip install openyuanrong-datasystem==0\.8\.1"):
        LocalWorker(home=home, memory_mb=256).start()


def test_dscli_is_that_of_the_package_wherever_it_lies(home):
    """As `pip install --target` has it: a directory in sys.path alone, and no script that PATH finds."""
    code = (
        "import subprocess, sys; sys.path[:0] = sys.argv[1:]\n"
        "from yr_fastload_native.worker import launch\n"
        "command = [*launch.find_dscli(), 'start', '--help']\n"
        "sys.exit(subprocess.run(command, env=launch.worker_environment()).returncode)"
    )
    places = {importlib.util.find_spec(name).origin for name in ("attrs", "yr.datasystem", "yr_fastload_native")}
    paths = {str(Path(place).parents[2 if "datasystem" in place else 1]) for place in places}
    command = [sys._base_executable, "-I", "-S", "-c", code, *paths]
    done = subprocess.run(command, env={"PATH": "/nowhere"}, cwd=home, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--worker_address" in done.stdout + done.stderr or "usage" in done.stdout


def test_the_allocator_of_a_worker_keeps_large_blocks_for_a_while(monkeypatch):
    monkeypatch.delenv("MALLOC_CONF", raising=False)
    assert "oversize_threshold:0" in launch.worker_environment()["MALLOC_CONF"]
    monkeypatch.setenv("MALLOC_CONF", "narenas:2")
    assert launch.worker_environment()["MALLOC_CONF"] == "narenas:2"


def test_no_proxy_is_asked_for_what_is_on_loopback(monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PATH", "/here")
    assert not {name for name in launch.worker_environment() if name.lower().endswith("proxy")}
    assert launch.worker_environment()["PATH"] == "/here"


def test_pool_larger_than_memory_is_refused_before_the_start(home):
    asked = psutil.virtual_memory().total // MIB * 2
    with pytest.raises(ResourceExhaustedError, match=rf"{asked} MiB does not fit: \d+ MiB are available"):
        LocalWorker(home=home, memory_mb=asked).start()
    assert not (home / "datasystem").exists()


def test_pool_takes_half_of_what_the_tightest_limit_leaves(monkeypatch):
    monkeypatch.setattr(memory, "_cgroup_headroom", lambda: iter([1000 * MIB, 4000 * MIB]))
    assert memory.pool_mb(0) == 500
    assert memory.pool_mb(1000) == 1000
    with pytest.raises(ResourceExhaustedError):
        memory.pool_mb(1001)
    monkeypatch.setattr(memory, "_cgroup_headroom", lambda: iter([100 * MIB]))
    with pytest.raises(ResourceExhaustedError, match="256 MiB does not fit: 100 MiB"):
        memory.pool_mb(0)


def test_a_pool_of_huge_pages_takes_those_that_are_free(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\nHugePages_Free:    300\nHugePages_Rsvd:     44\nHugepagesize:    2048 kB\n")
    assert (memory.huge_pages_mb(0, meminfo), memory.huge_pages_mb(512, meminfo)) == (512, 512)
    with pytest.raises(ResourceExhaustedError, match=r"512 MiB of huge pages are free, not 514; .*pages=257`"):
        memory.huge_pages_mb(514, meminfo)
    meminfo.write_text("MemFree: 1 kB\n")
    with pytest.raises(ResourceExhaustedError, match="0 MiB of huge pages are free, not 256"):
        memory.huge_pages_mb(0, meminfo)


def test_cgroup_v2_limits_of_all_parents_count(tmp_path):
    for directory, limit in (("", "max"), ("slice", "5000"), ("slice/pod", "3000")):
        group = tmp_path / directory
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(limit + "\n")
        (group / "memory.current").write_text("2500\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 400\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/slice/pod\n")
    assert list(memory._cgroup_headroom(tmp_path, membership)) == [900, 2900]


def test_cgroup_v1_in_a_container_that_sees_the_path_of_the_host(tmp_path):
    group = tmp_path / "memory"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text("1000")
    (group / "memory.usage_in_bytes").write_text("1100")
    (group / "memory.stat").write_text("total_inactive_file 300\n")
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/\n")
    assert list(memory._cgroup_headroom(tmp_path, membership)) == [200]


def test_gist_keeps_the_reason():
    output = (
        "[INFO] Starting worker service with PID: 7\n[ERROR] [  FAILED  ] Worker exited with code 255\n output: "
        "2026-11-23T09:37:50.025320 | E | zmq_socket_ref.cpp:64 |   | 7:7 | dc28 |  |  ZMQ bind unsuccessful: taken\n"
        "Line of code : 64\nFile         : zmq_socket_ref.cpp\ntraceId      : dc28]\n\n"
        "[ERROR] Start failed: The worker service exited abnormally\n"
    )
    assert launch._gist(output) == "[ERROR] [  FAILED  ] Worker exited with code 255 / ZMQ bind unsuccessful: taken"
    assert launch._gist("") == "no output"
