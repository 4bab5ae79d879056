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
from chaos.hosts.namespaces import why_no_etcd

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


def members_of(host: Host) -> dict[str, dict[str, Any]]:
    """What it says of the workers that it knows, by address."""
    return {each["address"]: each for each in worker(host, "status", "--cluster")["workers"]}


def cluster_of(host: Host) -> dict[str, bool]:
    """Which workers are ready, and whether it reaches them."""
    return {address: each["reachable"] for address, each in members_of(host).items() if each["ready"]}


def pools_of(host: Host) -> dict[str, int]:
    """MiB used of the pools that it knows of, by worker."""
    told = {address: each["pool"] for address, each in members_of(host).items()}
    assert all(pool["used_bytes"] + pool["free_bytes"] == pool["bytes"] for pool in told.values() if pool)
    return {address: pool["used_bytes"] >> 20 for address, pool in told.items() if pool}


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
    assert wait_until(lambda: cluster_of(member) == cluster_of(head) == both)
    publish_and_load(head, member, keys)
    assert wait_until(lambda: sum(32 <= used < 64 for used in pools_of(member).values()) == 2), pools_of(member)

    psutil.Process(began["pid"]).kill()
    again = start(head, "--head", *curve)
    assert again["pid"] != began["pid"]
    assert cluster_of(head) == {head.worker: True}, "its directory is empty"
    assert not members_of(head)[member.worker]["ready"], "it has seen that one before"
    assert worker(member, "stop")["stopped"]
    start(member, "--join", head.worker, *curve)
    assert wait_until(lambda: cluster_of(head) == both, 40)
    publish_and_load(member, head, keys)

    assert worker(member, "stop")["stopped"]
    assert wait_until(lambda: cluster_of(head) == {head.worker: True}, 40)
    gone = members_of(head)[member.worker]
    assert (gone["ready"], gone["reachable"], gone["pool"]) == (False, False, None)
    assert f"{member.worker}  gone: was ready" in head.run(
        *YR_FASTLOAD, "worker", "status", "--cluster", "--home", str(head.home)
    )
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


@pytest.mark.skipif(bool(why_no_etcd()), reason=why_no_etcd())
def test_an_etcd_instead_of_a_head(hosts_can_be_made: None, tmp_path: Path) -> None:
    """Any worker may be killed, and comes back by the same command."""
    curve = ("--curve-key-dir", str(make_curve_keys(tmp_path / "keys")))
    with Bed(2, etcd=True) as bed:
        first, second = bed.hosts
        etcd = f"{bed.etcd.address}:2379"
        began = [start(host, "--etcd", etcd, *curve) for host in bed.hosts]
        assert [each["etcd_address"] for each in began] == [etcd, etcd]
        both = {first.worker: True, second.worker: True}
        assert wait_until(lambda: cluster_of(second) == both)
        publish_and_load(first, second, Path(curve[1]))
        psutil.Process(began[0]["pid"]).kill()
        assert start(first, "--etcd", etcd, *curve)["pid"] != began[0]["pid"]
        assert wait_until(lambda: cluster_of(second) == both, 40)
        publish_and_load(second, first, Path(curve[1]))
