"""A cluster in two commands, as docs/cluster.md has them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos.hosts.bed import ANSWER_S, Bed, Host

from yr_fastload_native.worker.keys import make_curve_keys
from yr_fastload_native.worker.process import start_ticks

from ..waiting import wait_until

pytestmark = pytest.mark.worker

YR_FASTLOAD = (sys.executable, "-m", "yr_fastload_native")
MEMORY_MB = "512"


def worker(host: Host, *arguments: str) -> dict[str, Any]:
    """What `yr-fastload worker` answers on a host."""
    answer: dict[str, Any] = json.loads(
        host.run(*YR_FASTLOAD, "worker", *arguments, "--home", str(host.home), "--json")
    )
    return answer


def start(host: Host, *place: str) -> dict[str, Any]:
    return worker(host, "start", "--address", host.worker, *place, "--memory-mb", MEMORY_MB)


def cluster_of(host: Host) -> dict[str, bool]:
    """Which workers it knows, and whether it reaches them."""
    return {each["address"]: each["reachable"] for each in worker(host, "status", "--cluster")["workers"]}


def publish_and_load(source: Host, reader: Host, keys: Path) -> None:
    wanted = {"model": uuid.uuid4().hex, "size_mb": 32, "curve_key_dir": str(keys)}
    published = source.guest().call("publish", ANSWER_S, **wanted)
    assert "error" not in published, published
    loaded = reader.guest().call("load", ANSWER_S, **wanted)
    assert loaded.get("equal"), loaded


def test_two_commands(bed: Bed, tmp_path: Path) -> None:
    """With keys, across a kill of the head, until the end."""
    keys = make_curve_keys(tmp_path / "keys")
    curve = ("--curve-key-dir", str(keys))
    head, member = bed.hosts[:2]
    began = start(head, "--head", *curve)
    assert (began["address"], began["keep"], began["curve"]) == (head.worker, True, True)
    assert start(member, "--join", head.worker, *curve)["metastore_address"] == began["metastore_address"]
    both = {head.worker: True, member.worker: True}
    assert wait_until(lambda: cluster_of(member) == both)
    publish_and_load(head, member, keys)

    psutil.Process(began["pid"]).kill()
    again = start(head, "--head", *curve)
    assert again["pid"] != began["pid"]
    assert cluster_of(head) == {head.worker: True}, "its directory is empty"
    assert worker(member, "stop")["stopped"]
    start(member, "--join", head.worker, *curve)
    assert wait_until(lambda: cluster_of(head) == both, 40)
    publish_and_load(member, head, keys)

    assert worker(member, "stop")["stopped"]
    assert wait_until(lambda: cluster_of(head) == {head.worker: True}, 40)
    assert worker(head, "stop")["stopped"]
    assert not [each for host in (head, member) for each in host.processes() if each.name() == "datasystem_worker"]


@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGTERM, 0), pytest.param(signal.SIGKILL, 1, marks=pytest.mark.long)]
)
def test_in_the_foreground_it_ends_with_its_worker(bed: Bed, how: signal.Signals, status: int) -> None:
    host = bed.hosts[0]
    place = ("--address", host.worker, "--head", "--insecure", "--memory-mb", MEMORY_MB, "--home", str(host.home))
    command = [*host.enter, *YR_FASTLOAD, "worker", "start", *place, "--foreground", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        running = json.loads(process.stdout.readline())
        if how == signal.SIGTERM:
            process.terminate()
        else:
            psutil.Process(running["pid"]).kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        assert "warning: whoever reaches" in errors
        assert wait_until(lambda: start_ticks(running["pid"]) is None)
