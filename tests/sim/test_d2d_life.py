"""What a long life brings: sources that die at any point, workers that restart, and many rounds."""

from __future__ import annotations

import os
import signal
import time

import pytest

import yr_fastload_native as fl

from ..waiting import wait_until
from .kinds import both_kinds

pytestmark = pytest.mark.worker

MIB = 1 << 20
LET_GO_S = 1.5
MORE = {"threads": 2, "descriptors": 2, "rss": 96 * MIB}  # a model has 3 MiB: one a round is too much
SMALL_CHUNKS = {"chunk_bytes": MIB}


@both_kinds
def test_all_kinds_of_tensors(node, model):
    source, reader = node("source"), node("reader")
    assert source.call("publish", model=model, count=0)["settled"]
    answer = reader.call("load", model=model, count=0)
    assert (answer["equal"], answer["transport"]) == (True, "d2d")
    small_chunks = reader.call("load", model=model, count=0, settings={"hold": False, "chunks_ahead": 1})
    assert small_chunks["equal"]


def test_a_source_killed_at_every_chunk_boundary(node, model):
    chunks = 5
    settings = {"hold": False, "chunks_ahead": 1, "source_stall_s": 0.5}
    reader = node("reader")
    # Send 1 is openYuanrong's, if it sends any when it sets up the way; the next is the greeting.
    boundaries = range(1, chunks + 3)
    sources = {n: node(f"source{n}", YR_FASTLOAD_SIM_FAULTS=f"send@{n}+:freeze") for n in boundaries}
    for n, source in sources.items():
        publish = {"model": f"{model}-{n}", "count": chunks, "size": MIB - 8, "settings": SMALL_CHUNKS}
        assert source.call("publish", **publish)["chunks"] == chunks
        load = {"model": f"{model}-{n}", "count": chunks, "size": MIB - 8, "deadline_s": 5.0, "settings": settings}
        reader.start("load", **load)
        frozen = wait_until(lambda source=source: source.call("counters")["faults_hit"], 4)
        source.kill()
        answer = reader.finish()
        if not frozen and n == boundaries[-1]:  # openYuanrong sent nothing to set up the way, so no send was left
            assert answer["equal"], (n, answer)
            continue
        assert answer["error"] in ("PARTIAL_TRANSFER", "NOT_PUBLISHED"), (n, answer)
        assert answer["seconds"] < 6, (n, answer)
        reader.call("snapshot")
        time.sleep(0.2)
        assert reader.call("unchanged")["unchanged"], n
    source = node("good")
    source.call("publish", model=model, count=chunks, size=MIB - 8, settings=SMALL_CHUNKS)
    assert reader.call("load", model=model, count=chunks, size=MIB - 8)["equal"]


def test_readers_that_start_together_serve_each_other(node, model):
    source, readers = node("source"), [node(f"reader{i}") for i in range(4)]
    model_bytes = sum(8 * MIB + i for i in range(6))
    arguments = {"model": model, "count": 6, "size": 8 * MIB}
    source.call("publish", **arguments, settings={"chunk_bytes": 8 * MIB + 64})
    for reader in readers:
        reader.start("load", **arguments)
    assert all(reader.finish()["equal"] for reader in readers)
    sent = sum(source.call("counters")["sent_bytes"].values())
    assert sent < 2.5 * model_bytes


@both_kinds
def test_readers_that_do_not_serve_share_one_source(node, model):
    source, readers = node("source"), [node(f"reader{i}") for i in range(3)]
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    for reader in readers:  # one more than there are lanes for
        reader.start("load", model=model, settings={"hold": False, "chunks_ahead": 2})
    answers = [reader.finish() for reader in readers]
    assert [answer.get("equal") for answer in answers] == [True] * 3
    assert [answer["transport"] for answer in answers] == ["d2d"] * 3
    assert [answer["retried"] for answer in answers] == [0] * 3


def test_the_way_between_two_processes_is_set_up_once(node, model):
    source, reader = node("source"), node("reader")
    for turn in range(3):
        source.call("round", model=model, number=turn, do="publish")
        for _ in range(2):
            assert reader.call("round", model=model, number=turn, do="load")["equal"]
        calls = reader.call("counters")["calls"]
        # A publication is a client of its own: once each.
        assert calls["HcclCommInitRootInfoConfig"] == turn + 1
        source.call("round", model=model, number=turn, do="withdraw")


@pytest.mark.parametrize(
    ("kind", "rounds", "warm"),
    [
        ("ascend", 36, 12),
        pytest.param("ascend", 200, 60, marks=pytest.mark.long),
        pytest.param("cuda", 200, 60, marks=pytest.mark.long),
    ],
    indirect=["kind"],
)
def test_rounds_without_growth(node, model, rounds, warm):
    source, reader = node("source"), node("reader")
    for number in range(rounds):
        source.call("round", model=model, number=number, do="publish")
        loaded = reader.call("round", model=model, number=number, do="load")
        assert loaded["equal"], (number, loaded, source.call("states"))
        withdrawn = source.call("round", model=model, number=number, do="withdraw")
        assert withdrawn["left"] == loaded["left"] == 0, number
        if number == warm:
            time.sleep(LET_GO_S)
            before = source.call("idle"), reader.call("idle")
    for each, was in zip((source, reader), before, strict=True):
        assert_no_growth(each, was)


def assert_no_growth(process, was):
    """openYuanrong takes a while to let go of what belongs to a peer that has left."""
    grown = {"everything": None}
    end = time.monotonic() + 10 * LET_GO_S
    while grown and time.monotonic() < end:
        time.sleep(LET_GO_S)
        now = process.call("idle")
        grown = {key: (was[key], now[key]) for key, most in MORE.items() if now[key] > was[key] + most}
        for key in ("streams", "comms", "notifies"):
            if now["alive"][key] > was["alive"][key]:
                grown[key] = was["alive"][key], now["alive"][key]
    assert not grown
    assert now["alive"]["memory_errors"] == was["alive"]["memory_errors"]


def test_a_worker_that_dies_and_comes_back(model, own_worker, start_again, tmp_path):
    from nodes import Node

    address = own_worker.address
    source = Node(address, tmp_path, "own-source", YR_FASTLOAD_SIM_LINK_GBPS="0.05")
    reader = Node(address, tmp_path, "own-reader", 1)
    try:
        source.call("publish", model=model, settings=SMALL_CHUNKS)
        settings = {"hold": False, "chunks_ahead": 2, "source_stall_s": 1.0, "rpc_timeout_s": 1.0}
        reader.start("load", model=model, deadline_s=5.0, settings=settings)
        # Of twelve, in about two seconds.
        wait_until(lambda: sum(source.call("counters")["sent_bytes"].values()) >= 2 * MIB, 30)
        own_worker.stop(force=True)
        answer = reader.finish()
        assert answer["seconds"] < 6
        assert "error" in answer or answer["equal"]
        reader.call("snapshot")
        start_again(address)
        for each in (source, reader):
            each.call("close")
        source.call("publish", model=model + "again", settings=SMALL_CHUNKS)
        assert reader.call("unchanged")["unchanged"]
        assert reader.call("load", model=model + "again")["equal"]
    finally:
        reader.close()
        source.close()


def test_a_worker_that_freezes_keeps_no_load(model, own_worker, short_tmp, tmp_path):
    """Nothing that a load tidies up, place, source and lanes, makes it return later than a second past its deadline."""
    from nodes import Node

    status = fl.LocalWorker.status(short_tmp)
    source = Node(own_worker.address, tmp_path, "own-source", YR_FASTLOAD_SIM_LINK_GBPS="0.05")
    reader = Node(own_worker.address, tmp_path, "own-reader", 1)
    try:
        source.call("publish", model=model, settings=SMALL_CHUNKS)
        reader.start("load", model=model, deadline_s=2.0, settings={"chunks_ahead": 2, "rpc_timeout_s": 30.0})
        wait_until(lambda: sum(source.call("counters")["sent_bytes"].values()) >= 2 * MIB, 30)
        os.kill(status.pid, signal.SIGSTOP)
        answer = reader.finish()
        assert answer["seconds"] < 3
        assert answer["error"] in ("TRANSFER_TIMEOUT", "PARTIAL_TRANSFER")
    finally:
        os.kill(status.pid, signal.SIGCONT)
        reader.close()
        source.close()


def test_keys_are_named_again_to_a_worker_that_was_out_of_breath(model, own_worker, short_tmp, tmp_path):
    from nodes import Node

    status = fl.LocalWorker.status(short_tmp)
    source, reader = (
        Node(own_worker.address, tmp_path, "own-source"),
        Node(own_worker.address, tmp_path, "own-reader", 1),
    )
    try:
        settings = {"chunk_bytes": 16 << 10, "rpc_timeout_s": 0.5}
        chunks = source.call("publish", model=model, settings=settings, wait_s=0)["chunks"]
        assert 0 < wait_until(lambda: source.call("serving", model=model)["chunks"], 30) < chunks
        os.kill(status.pid, signal.SIGSTOP)
        time.sleep(3.0)
        os.kill(status.pid, signal.SIGCONT)
        assert source.call("settled", model=model, wait_s=120)["settled"]
        assert reader.call("load", model=model, deadline_s=100)["equal"]
    finally:
        os.kill(status.pid, signal.SIGCONT)
        reader.close()
        source.close()
