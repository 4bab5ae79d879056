"""Weights that come from another host: over fast links and slow ones, and into too small a pool."""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

import pytest
from chaos.hosts.bed import ANSWER_S, Bed

from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.worker.memory import pool_flags

pytestmark = pytest.mark.worker

MIB = 1 << 20
MODEL_MB = 128
CHUNK_BYTES = 4 * MIB
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def model() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def nodes(cluster: Bed) -> list[Process]:
    """One on each host."""
    return [host.guest() for host in cluster.hosts]


def ask(node: Process, call: str, **arguments: Any) -> dict[str, Any]:
    return node.call(call, ANSWER_S, **arguments)


def test_a_second_reader_of_a_host_moves_no_byte(cluster: Bed, nodes: list[Process], model: str) -> None:
    ask(nodes[0], "publish", model=model, size_mb=128)
    before = cluster.hosts[1].received_bytes()
    assert ask(nodes[1], "load", model=model, size_mb=128)["equal"]
    once = cluster.hosts[1].received_bytes()
    assert 128 * MIB < once - before < 160 * MIB
    assert ask(nodes[1], "load", model=model, size_mb=128)["equal"]
    assert cluster.hosts[1].received_bytes() - once < MIB


def test_a_first_reader_that_is_killed_costs_its_host_no_second_pull(
    cluster: Bed, nodes: list[Process], model: str
) -> None:
    host, second = cluster.hosts[1], nodes[1]
    ask(nodes[0], "publish", model=model, size_mb=192)
    first = host.guest()
    ask(first, "exist", keys=["none"])  # it is there, and connects
    host.limit(400)
    try:
        before = host.received_bytes()
        for reader in (first, second):
            reader.start("load", model=model, size_mb=192)
            time.sleep(1)  # of four
        first.kill()
        answer = second.finish(ANSWER_S)
        assert answer.get("equal"), answer
        assert host.received_bytes() - before < 1.3 * 192 * MIB
    finally:
        host.unlimit()


@pytest.mark.parametrize("readers", [3, pytest.param(8, marks=pytest.mark.long)])
def test_hosts_that_read_at_once_fetch_from_each_other(hosts_can_be_made: None, model: str, readers: int) -> None:
    """The publisher alone would send the model to each."""
    with Bed(1 + readers) as bed:
        bed.start_workers(MODEL_MB * 2)
        source, *guests = [host.guest() for host in bed.hosts]
        ask(source, "publish", model=model, size_mb=MODEL_MB, chunk_bytes=CHUNK_BYTES)
        for guest in guests:
            ask(guest, "exist", keys=["none"])
        for host in bed.hosts:
            host.limit(200)
        before = bed.hosts[0].sent_bytes()
        for guest in guests:
            guest.start("load", model=model, size_mb=MODEL_MB, deadline_s=80.0)
        answers = [guest.finish(ANSWER_S) for guest in guests]
        assert all(answer.get("equal") for answer in answers), answers
        sent = (bed.hosts[0].sent_bytes() - before) / (MODEL_MB * MIB)
        assert 0.9 < sent < (2.4 if readers == 3 else 3), answers


def test_a_slow_link_is_used_to_the_full(cluster: Bed, nodes: list[Process], model: str) -> None:
    """A call of openYuanrong's gets five seconds, in which less than the whole model arrives."""
    cluster.hosts[1].limit(100)
    try:
        ask(nodes[0], "publish", model=model, size_mb=96)
        before = cluster.hosts[1].received_bytes()
        answer = ask(nodes[1], "load", model=model, size_mb=96)
        assert answer.get("equal"), answer
        assert answer["seconds"] < 2 * 96 * MIB * 8 / 100e6
        assert cluster.hosts[1].received_bytes() - before < 1.5 * 96 * MIB, "nothing is fetched again and again"
    finally:
        cluster.hosts[1].unlimit()


def test_a_link_that_comes_back_in_time_costs_no_load(cluster: Bed, nodes: list[Process], model: str) -> None:
    publisher, reader = cluster.hosts[0], cluster.hosts[1]
    reader.limit(400)
    try:
        ask(nodes[0], "publish", model=model, size_mb=128)
        nodes[1].start("load", model=model, size_mb=128, deadline_s=40.0)
        time.sleep(0.7)
        publisher.cut()
        time.sleep(1.0)  # shorter than what makes a node a lost one
        publisher.mend()
        answer = nodes[1].finish(ANSWER_S)
        assert answer.get("equal"), answer
    finally:
        publisher.mend()
        reader.unlimit()


def test_a_pool_smaller_than_the_model_takes_it_piece_by_piece(bed: Bed, model: str) -> None:
    bed.hosts[0].start_worker(512)
    bed.hosts[1].start_worker(192)
    source, reader = bed.hosts[0].guest(), bed.hosts[1].guest()
    ask(source, "publish", model=model, size_mb=256)
    answer = ask(reader, "load", model=model, size_mb=256)
    assert answer.get("equal"), answer


@pytest.mark.long
def test_memory_that_chunks_pass_through_is_used_again(bed: Bed) -> None:
    """In the worker's process, beside its pool, which is populated here: a page of it is touched once."""
    for host in bed.hosts[:2]:
        host.start_worker(1024, **pool_flags(populate=True))
    source, reader = bed.hosts[0].guest(), bed.hosts[1].guest()
    faults = []
    for _ in range(3):
        model = uuid.uuid4().hex
        ask(source, "publish", model=model, size_mb=MODEL_MB)
        before = bed.hosts[1].page_faults()
        assert ask(reader, "load", model=model, size_mb=MODEL_MB, hold=False)["equal"]
        faults.append(bed.hosts[1].page_faults() - before)
        ask(source, "withdraw", model=model)
    assert faults[-1] < MODEL_MB * MIB / PAGE_BYTES / 2, faults
