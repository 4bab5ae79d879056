"""Weights that come from another host: over fast links and slow ones, and into too small a pool."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest

from yr_fastload_native.measuring.child_process import Process

from .bed import ANSWER_S, Bed

pytestmark = pytest.mark.worker

MIB = 1 << 20


@pytest.fixture
def model() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def nodes(cluster: Bed) -> list[Process]:
    """One on each host."""
    return [host.node() for host in cluster.hosts]


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
    bed.hosts[0].start_worker(1024)
    bed.hosts[1].start_worker(192)
    source, reader = bed.hosts[0].node(), bed.hosts[1].node()
    ask(source, "publish", model=model, size_mb=384)
    answer = ask(reader, "load", model=model, size_mb=384)
    assert answer.get("equal"), answer
