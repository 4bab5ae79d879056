"""Where a worker listens, and in which cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import yr_fastload_native as fl
from yr_fastload_native.cli import main
from yr_fastload_native.worker.place import Place

ADDRESS = "10.0.0.2:31501"
CLUSTER = {"node_timeout_s": "5", "node_dead_timeout_s": "10"}


def place(address: str = ADDRESS, *, head: bool = False, join: str = "", etcd: str = "") -> Place:
    return Place.of(address, head=head, join=join, etcd=etcd)


def test_alone_it_keeps_its_own_directory() -> None:
    assert Place(port=5).flags("127.0.0.1:5", "127.0.0.1:6") == {
        "worker_address": "127.0.0.1:5",
        "metastore_address": "127.0.0.1:6",
        "start_metastore_service": "true",
    }


def test_a_head_has_the_directory_that_others_join() -> None:
    head, member = place(head=True), place("10.0.0.3:31501", join=ADDRESS)
    directory = {"metastore_address": "10.0.0.2:31502"} | CLUSTER
    started = {"worker_address": ADDRESS, "start_metastore_service": "true"}
    assert head.flags(head.address, "") == directory | started
    joined = {"worker_address": member.address, "start_metastore_service": "false"}
    assert member.flags(member.address, "") == directory | joined
    assert head.listens_on == [("10.0.0.2", 31501), ("10.0.0.2", 31502)]
    assert member.listens_on == [("10.0.0.3", 31501)]


def test_an_etcd_is_the_directory_of_all() -> None:
    etcd = "10.0.1.1:2379,10.0.1.2:2379"
    flags = place(etcd=etcd).flags(ADDRESS, "")
    assert flags == {"worker_address": ADDRESS, "etcd_address": etcd, "start_metastore_service": "false"} | CLUSTER


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({}, "needs one of --head, --join and --etcd"),
        ({"head": True, "join": ADDRESS}, "needs one of"),
        ({"address": "10.0.0.2", "head": True}, "is not HOST:PORT"),
        ({"address": "0.0.0.0:31501", "head": True}, "others cannot reach 0.0.0.0"),
        ({"address": "10.0.0.2:65535", "head": True}, "use a lower one"),
        ({"join": "10.0.0.1"}, "is not HOST:PORT"),
        ({"etcd": "10.0.1.1:2379,"}, "is not HOST:PORT"),
    ],
)
def test_a_place_that_is_none_is_refused(wrong: dict, why: str) -> None:
    with pytest.raises(fl.InvalidArgumentError, match=why):
        place(**wrong)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_is_known(host: str) -> None:
    assert Place(host).is_loopback
    assert not Place("10.0.0.2").is_loopback
    assert not Place("machine-1").is_loopback


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--head"], "need --address"),
        (["--address", ADDRESS, "--head", "--port", "1"], "leave out --port"),
        (["--address", ADDRESS, "--head"], "could read and replace weights"),
        (["--address", "192.0.2.1:31501", "--head", "--insecure"], "cannot listen on 192.0.2.1:31501"),
    ],
)
def test_a_command_that_cannot_work_says_why(arguments: list[str], why: str, short_home: Path) -> None:
    result = CliRunner().invoke(main, ["worker", "start", *arguments, "--home", str(short_home)])
    assert result.exit_code == 1
    assert why in result.stderr
