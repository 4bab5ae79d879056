"""What is published outlives the loss of workers, hosts and links, while somebody is left who has it."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from chaos.hosts.bed import ANSWER_S, NODE_DEAD_TIMEOUT_S, Bed
from chaos.hosts.namespaces import why_no_etcd

from yr_fastload_native.measuring.child_process import Process

from ..waiting import wait_until

pytestmark = pytest.mark.worker

SIZE_MB = 64
LEASE_S = 2
RECOVERY_S = 2 * NODE_DEAD_TIMEOUT_S + 10


@pytest.fixture
def model() -> str:
    return uuid.uuid4().hex


def ask(node: Process, call: str, **arguments: Any) -> dict[str, Any]:
    return node.call(call, ANSWER_S, **arguments)


def loads(node: Process, model: str) -> Callable[[], bool]:
    """Whether a guest there can load it now."""
    return lambda: bool(
        ask(node, "load", model=model, size_mb=SIZE_MB, deadline_s=5.0, hold=False, rpc_timeout_s=1.0).get("equal")
    )


def test_a_worker_that_is_restarted_gets_back_what_it_had(bed: Bed, model: str) -> None:
    bed.start_workers()
    source, reader = bed.hosts[1].guest(), bed.hosts[2].guest()
    assert "error" not in ask(source, "publish", model=model, size_mb=SIZE_MB, lease_s=LEASE_S)
    assert loads(reader, model)()
    bed.hosts[1].kill_worker()
    bed.hosts[1].start_worker()
    assert wait_until(loads(reader, model), RECOVERY_S)
    assert ask(source, "state", model=model)["state"] == "live"


@pytest.mark.long
def test_a_host_that_dies_takes_nothing_of_others_along(bed: Bed, model: str) -> None:
    """Though it kept track of part of their keys."""
    bed.start_workers()
    source, reader = bed.hosts[0].guest(), bed.hosts[0].guest()
    models = [f"{model}-{number}" for number in range(4)]
    for each in models:
        assert "error" not in ask(source, "publish", model=each, size_mb=SIZE_MB, lease_s=LEASE_S, chunk_bytes=8 << 20)
    bed.hosts[2].kill()
    for each in models:
        assert wait_until(loads(reader, each), RECOVERY_S), ask(source, "state", model=each)
        assert wait_until(lambda each=each: ask(source, "state", model=each)["state"] == "live", 2 * LEASE_S)
    assert "error" not in ask(source, "publish", model=f"{model}-new", size_mb=SIZE_MB)


@pytest.mark.long
def test_keys_whose_only_copy_is_out_of_reach_are_not_renewed(bed: Bed) -> None:
    """Others list them still, having forgotten where their copies are: nobody can read them."""
    bed.start_workers()
    holder, other = bed.hosts[1].guest(), bed.hosts[0].guest()
    keys = [uuid.uuid4().hex for _ in range(24)]  # each host keeps track of some
    ask(holder, "store", keys=keys, ttl_s=300)
    assert ask(other, "expire", keys=keys, ttl_s=300) == {"missing": []}
    bed.hosts[1].kill_worker()
    assert wait_until(lambda: len(ask(other, "expire", keys=keys, ttl_s=300).get("missing", ())) == 24, RECOVERY_S)


@pytest.mark.long
def test_renewals_that_nobody_answers_keep_no_other_call_waiting(bed: Bed) -> None:
    """Each takes the whole `rpc_timeout_s` in openYuanrong's client, and a lease makes the next one meanwhile."""
    bed.start_workers()
    guest = bed.hosts[1].guest()
    keys = [uuid.uuid4().hex for _ in range(24)]  # of all or some the first host keeps track
    ask(guest, "store", keys=keys, ttl_s=300)
    bed.hosts[0].signal_worker(signal.SIGSTOP)
    assert ask(guest, "renew_in_vain", keys=keys, times=8, deadline_s=0.25) == {"renewed": 0, "found": True}


@pytest.mark.long
def test_a_copy_on_another_host_takes_the_place_of_one_that_died(bed: Bed, model: str) -> None:
    bed.start_workers()
    first, second, reader = bed.hosts[2].guest(), bed.hosts[1].guest(), bed.hosts[0].guest()
    assert "error" not in ask(first, "publish", model=model, size_mb=SIZE_MB, lease_s=LEASE_S)
    assert ask(second, "load", model=model, size_mb=SIZE_MB, lease_s=LEASE_S)["equal"]
    bed.hosts[2].kill()
    assert wait_until(loads(reader, model), RECOVERY_S)


@pytest.mark.long
@pytest.mark.parametrize("lost", [1, 2], ids=["has nothing", "published it"])
def test_it_is_loaded_again_within_twice_the_node_timeout(bed: Bed, model: str, lost: int) -> None:
    """With the times that `worker start` and a lease have by default: docs/cluster.md derives the bound."""
    dead_s = 10
    bed.start_workers(node_timeout_s=dead_s // 2, node_dead_timeout_s=dead_s)
    reader, holder = bed.hosts[0].guest(), bed.hosts[3 - lost].guest()
    first = bed.hosts[2].guest() if lost == 2 else holder
    models = [f"{model}-{number}" for number in range(4)]  # whoever is lost keeps track of some of their keys
    for each in models:
        settings = {"model": each, "size_mb": SIZE_MB, "lease_s": dead_s, "chunk_bytes": 8 << 20}
        assert "error" not in ask(first, "publish", **settings)
        assert ask(holder, "load", **settings)["equal"]
    quick = {"size_mb": SIZE_MB, "deadline_s": 1.0, "hold": False, "rpc_timeout_s": 0.5}
    bed.hosts[lost].kill()
    died, failed = time.monotonic(), 0.0
    while time.monotonic() < died + 2 * dead_s:
        if not all(ask(reader, "load", model=each, **quick).get("equal") for each in models):
            failed = (time.monotonic() - died) / dead_s
    for each in models:
        assert loads(reader, each)(), f"{each}; not all could be loaded for {failed:.2f} node_dead_timeout_s"


@pytest.mark.long
def test_a_head_that_comes_back_is_joined_again(bed: Bed, model: str) -> None:
    bed.start_workers()
    source, reader = bed.hosts[1].guest(), bed.hosts[1].guest()
    assert "error" not in ask(source, "publish", model=model, size_mb=SIZE_MB, lease_s=LEASE_S)
    bed.hosts[0].kill_worker()
    time.sleep(NODE_DEAD_TIMEOUT_S)
    bed.hosts[0].start_worker()
    assert wait_until(loads(reader, model), RECOVERY_S), ask(source, "state", model=model)
    new = {"model": f"{model}-new", "size_mb": SIZE_MB}
    assert wait_until(lambda: "error" not in ask(source, "publish", **new), RECOVERY_S)


@pytest.mark.long
@pytest.mark.skipif(bool(why_no_etcd()), reason=why_no_etcd())
def test_an_etcd_that_is_away_for_a_while_costs_no_publication(hosts_can_be_made: None, model: str) -> None:
    with Bed(2, etcd=True) as bed:
        bed.start_workers()
        source, reader = bed.hosts[0].guest(), bed.hosts[1].guest()
        assert "error" not in ask(source, "publish", model=model, size_mb=SIZE_MB, lease_s=LEASE_S)
        bed.etcd.cut()
        time.sleep(2 * NODE_DEAD_TIMEOUT_S)
        bed.etcd.mend()
        assert wait_until(loads(reader, model), RECOVERY_S), ask(source, "state", model=model)
        assert wait_until(lambda: ask(source, "state", model=model)["state"] == "live", RECOVERY_S)
