"""The test bed itself: hosts see each other, and nothing is left of them."""

from __future__ import annotations

import os
import subprocess

import psutil
import pytest
from chaos.hosts.bed import ANSWER_S, Bed
from chaos.hosts.namespaces import PREFIX, clean_up, namespaces, run
from chaos.hosts.stream import stream

from ..waiting import wait_until

REPLIES = ("ping", "-c", "1", "-W", "1")


def send(bed: Bed, size: int) -> float:
    """Seconds that these bytes take from the first host to the second."""
    return stream(*bed.hosts[:2], size)


def test_a_link_has_the_rate_that_it_is_given(bed: Bed) -> None:
    free = send(bed, 8 << 20)
    bed.hosts[1].limit(100)
    limited = send(bed, 8 << 20)
    assert 0.5 < limited < 3  # 0.67 s at that rate
    assert limited > 3 * free
    bed.hosts[1].unlimit()
    assert send(bed, 8 << 20) < limited / 2


def test_a_link_that_is_cut_carries_nothing_until_it_is_mended(bed: Bed) -> None:
    bed.hosts[1].cut()
    with pytest.raises(RuntimeError, match=r"TimeoutError|No route to host|iperf3: "):
        send(bed, 1)
    bed.hosts[1].mend()
    assert send(bed, 1) < 5


def test_a_host_that_is_killed_has_no_process_left(bed: Bed) -> None:
    node = bed.hosts[2].guest()
    node.call("close", ANSWER_S)  # it has moved there
    assert node.pid in [each.pid for each in bed.hosts[2].processes()]
    bed.hosts[2].kill()
    assert bed.hosts[2].processes() == []


def test_nothing_outlives_a_bed(hosts_can_be_made: None) -> None:
    with Bed(2) as bed:
        bed.hosts[0].guest().call("close", ANSWER_S)
        tag, directory, processes = bed.switch.rpartition("-")[0], bed.directory, bed.hosts[0].processes()
        assert [name for name in namespaces() if name.startswith(tag)]
    assert not [name for name in namespaces() if name.startswith(tag)]
    assert not directory.exists()
    assert processes
    assert not any(each.is_running() for each in processes)


def test_what_a_killed_run_left_is_removed(hosts_can_be_made: None) -> None:
    gone = next(pid for pid in range(4_000_000, 2, -1) if not psutil.pid_exists(pid))
    name, alive = f"{PREFIX}-{gone}-abcd-1", f"{PREFIX}-{os.getpid()}-abcd-1"
    for each in (name, alive):
        subprocess.run(["ip", "netns", "add", each], check=True)
    sleeper = subprocess.Popen(["ip", "netns", "exec", name, "sleep", "60"])
    try:
        assert wait_until(lambda: run("ip", "netns", "pids", name).strip() == str(sleeper.pid))
        clean_up()
        assert name not in namespaces()
        assert alive in namespaces()
        assert not psutil.pid_exists(sleeper.pid)
    finally:
        sleeper.kill()
        subprocess.run(["ip", "netns", "del", alive], check=True)
