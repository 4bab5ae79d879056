"""What LocalWorker refuses or decides before any worker runs."""

import os
import socket
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError, UnavailableError
from yr_fastload_native.worker import LocalWorker, WorkerStatus, launch, memory
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import start_ticks

MIB = 1 << 20


@pytest.fixture
def home(tmp_path):
    """A private directory with a short path, whatever the name of the test."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as directory:
        yield Path(directory)


def write_state(home, **changed):
    facts = {
        "address": "127.0.0.1:1",
        "metastore_address": "127.0.0.1:2",
        "pid": os.getpid(),
        "start_ticks": start_ticks(os.getpid()),
        "memory_mb": 512,
        "home": str(home),
        "keep": False,
    }
    (home / "worker.json").write_bytes(msgspec.json.encode(facts | changed))


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


def test_default_home_prefers_the_runtime_directory(monkeypatch, home):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    assert Home(None).path == home / "yr-fastload"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    assert Home(None).path == home / f"yr-fastload-{os.getuid()}"


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


def test_reused_pid_is_neither_taken_for_the_worker_nor_killed(home):
    write_state(home)
    assert LocalWorker.status(home).pid == os.getpid()
    write_state(home, start_ticks=1)
    assert LocalWorker.status(home) is None
    LocalWorker(home=home).stop(force=True)
    assert not (home / "worker.json").exists()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": "1"}', b"\xff" * 99])
def test_broken_state_file_means_no_worker(home, text):
    (home / "worker.json").write_bytes(text)
    assert LocalWorker.status(home) is None


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
    monkeypatch.setattr(launch.sys, "executable", str(home / "python"))
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(UnavailableError, match=r"pip install openyuanrong-datasystem==0\.8\.1"):
        LocalWorker(home=home, memory_mb=256).start()


def test_dscli_is_found_beside_the_interpreter_of_a_virtual_environment(home, monkeypatch):
    for name in ("python", "dscli"):
        (home / name).touch(0o700)
    monkeypatch.setattr(launch.sys, "executable", str(home / "python"))
    assert launch.find_dscli() == str(home / "dscli")


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
