"""`yr-fastload worker`, and the pools that it starts workers with."""

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import yr_fastload_native as fl
from yr_fastload_native.cli.worker import worker as command
from yr_fastload_native.worker import LocalWorker
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.memory import huge_pages_mb
from yr_fastload_native.worker.process import strays

from .worker_homes import MEMORY_MB, assert_nothing_left

pytestmark = pytest.mark.worker


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
