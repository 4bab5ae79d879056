"""Weights from device to device, between real processes, through a real worker and the wheel's own NPU code."""

from __future__ import annotations

import signal
import time

import pytest
from click.testing import CliRunner

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.cli import main

from ..waiting import wait_until
from .kinds import both_kinds
from .nodes import STAND_INS

pytestmark = pytest.mark.worker

SMALL_CHUNKS = {"chunk_bytes": 1 << 20}
ONLY_READS = {"hold": False, "chunk_bytes": 1 << 20, "chunks_ahead": 2}


def test_bytes_arrive_and_the_reader_becomes_a_source(node, model):
    source, reader, late = node("source"), node("reader"), node("late")
    assert source.call("publish", model=model, settings=SMALL_CHUNKS) == {
        "settled": True,
        "chunks": 23,
        "state": "live",
    }
    first = reader.call("load", model=model)
    assert (first["equal"], first["transport"]) == (True, "d2d")
    assert [step["outcome"] for step in first["steps"]] == ["loaded", "skipped", "skipped"]
    source.call("close")
    second = late.call("load", model=model)
    assert (second["equal"], second["transport"]) == (True, "d2d")
    assert sum(late.call("counters")["received_bytes"].values()) >= 12 << 20
    reader.call("close")
    late.call("close")
    assert node("nobody").call("load", model=model)["error"] == "NOT_PUBLISHED"


def test_staged_outlives_its_source(node, model):
    source, reader = node("source"), node("reader")
    settings = {"publish_as": "d2d+staged"}
    source.call("publish", model=model, settings=settings)
    source.kill()
    answer = reader.call("load", model=model, deadline_s=12.0, settings={"source_stall_s": 1.0, "hold": False})
    assert (answer["equal"], answer["transport"]) == (True, "staged")
    assert answer["steps"][0]["outcome"] in ("failed", "partial")
    assert answer["seconds"] < 8


def test_staged_takes_many_calls(node, model):
    source, reader = node("source"), node("reader", **STAND_INS)
    arguments = {"model": model, "count": 24, "size": 9 << 20}  # twice openYuanrong's pool
    assert source.call("publish", **arguments, settings={"publish_as": "staged"})["chunks"] == 48
    for numpy in (False, True):
        answer = reader.call("load", **arguments, numpy=numpy, settings={"hold": False, "chunks_ahead": 4})
        assert (answer["equal"], answer["transport"], answer["retried"]) == (True, "staged", 0)


def test_numpy_arrays_are_loaded_through_landing_memory(node, model):
    source, reader = node("source"), node("reader", **STAND_INS)
    source.call("publish", model=model)
    assert reader.call("load", model=model, numpy=True)["equal"]


def test_a_chunk_is_sent_again_before_its_last_send_was_seen_to_be_done(node, model):
    """openYuanrong's sends of a chunk share an event, and its thread that waits for them is late: csrc/datasystem."""
    late_s = 3.0
    source, reader = node("source", YR_FASTLOAD_SIM_FAULTS=f"query@1:delay_ms={1e3 * late_s}"), node("reader")
    source.call("publish", model=model)
    began = time.monotonic()
    while time.monotonic() < began + 2 * late_s:
        answer = reader.call("load", model=model, deadline_s=10.0, settings={"hold": False, "source_stall_s": 2.0})
        assert (answer["equal"], answer["retried"]) == (True, 0)


@pytest.mark.parametrize(
    ("stand_ins", "delay_s", "number"),
    [
        pytest.param(STAND_INS, 0.3, signal.SIGKILL, id="straight-during-killed"),
        pytest.param({}, 0.3, signal.SIGSTOP, id="landing-during-frozen"),
        pytest.param({}, 0.0, signal.SIGKILL, id="landing-before-killed"),
        pytest.param(STAND_INS, 0.0, signal.SIGSTOP, id="straight-before-frozen", marks=pytest.mark.long),
        pytest.param(STAND_INS, 0.0, signal.SIGKILL, id="straight-before-killed", marks=pytest.mark.long),
        pytest.param(STAND_INS, 0.3, signal.SIGSTOP, id="straight-during-frozen", marks=pytest.mark.long),
        pytest.param({}, 0.3, signal.SIGKILL, id="landing-during-killed", marks=pytest.mark.long),
        pytest.param({}, 0.0, signal.SIGSTOP, id="landing-before-frozen", marks=pytest.mark.long),
    ],
)
def test_a_load_ends_in_time_and_writes_nothing_later(node, model, number, delay_s, stand_ins):
    source, reader = node("source", YR_FASTLOAD_SIM_LINK_GBPS="0.1"), node("reader", **stand_ins)
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    if not delay_s:
        source.kill(number)
    reader.start("load", model=model, deadline_s=5.0, settings=ONLY_READS)
    if delay_s:
        time.sleep(delay_s + 1.0)
        source.kill(number)
    answer = reader.finish()
    assert answer["seconds"] < 6
    assert answer["error"] in ("PARTIAL_TRANSFER", "TRANSFER_TIMEOUT", "NOT_PUBLISHED")
    reader.call("snapshot")
    source.kill(signal.SIGCONT)
    time.sleep(1.5)
    assert reader.call("unchanged") == {"unchanged": True}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("send@5+:fail", id="fails", marks=pytest.mark.long),
        pytest.param("send@5+:freeze", id="freezes"),
        pytest.param("send@5:drop", id="drops", marks=pytest.mark.long),
        pytest.param("link:gbps=0.008", id="slow"),
    ],
)
def test_faults_of_the_only_source(node, model, fault):
    source, reader = node("source"), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    source.faults(fault)
    answer = reader.call("load", model=model, deadline_s=5.0, settings=ONLY_READS)
    assert answer["seconds"] < 6
    assert answer["error"] in ("PARTIAL_TRANSFER", "TRANSFER_TIMEOUT")
    source.faults()


@pytest.mark.parametrize("publish_as", ["d2d", pytest.param("staged", marks=pytest.mark.long)])
def test_a_device_that_gives_no_memory_keeps_no_load(node, model, publish_as):
    source, reader = node("source"), node("reader", **STAND_INS)
    source.call("publish", model=model, settings={**SMALL_CHUNKS, "publish_as": publish_as})
    reader.faults("malloc@3+:freeze")
    answer = reader.call("load", model=model, deadline_s=3.0, settings=ONLY_READS, numpy=True)
    assert answer["seconds"] < 4
    assert answer["error"] in ("PARTIAL_TRANSFER", "TRANSFER_TIMEOUT")
    reader.faults()


@pytest.mark.parametrize(
    "fault", ["copy@2+:freeze", "copy@2+:corrupt=1", pytest.param("copy@2+:fail", marks=pytest.mark.long)]
)
def test_copies_from_staging_memory_that_go_wrong(node, model, fault):
    """After a chunk was verified in staging memory its last step can still fail, hang, or damage it."""
    source, reader = node("source"), node("reader", **STAND_INS)
    source.call("publish", model=model, settings={**SMALL_CHUNKS, "publish_as": "host"})
    reader.faults(fault)
    settings = {**ONLY_READS, "staging": "always"}
    answer = reader.call("load", model=model, deadline_s=3.0, settings=settings, numpy=True)
    assert answer["seconds"] < 4
    assert answer["error"] in ("INTEGRITY", "TRANSFER_TIMEOUT", "DEVICE")
    reader.call("snapshot")
    reader.faults()
    time.sleep(0.5)
    assert reader.call("unchanged") == {"unchanged": True}


def test_a_staged_copy_that_ends_after_its_publish_has_failed_is_deleted(node, model, store):
    source = node("source", **STAND_INS)
    source.faults("copy@2+:freeze")
    answer = source.call("publish_in_vain", model=model, settings={**SMALL_CHUNKS, "publish_deadline_s": 1.0})
    assert answer["error"] == "TRANSFER_TIMEOUT"
    source.faults()  # now openYuanrong goes on with what it was asked for
    time.sleep(1.0)
    assert wait_until(lambda: not any(store.exist(answer["keys"], deadline_s=5)), 10)


def test_damaged_bytes_are_never_taken(node, model):
    source, reader = node("source"), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    reader.faults("recv@6+:corrupt=3")
    answer = reader.call("load", model=model, deadline_s=30.0, settings=ONLY_READS)
    assert answer["error"] == "INTEGRITY"


@both_kinds
def test_a_source_whose_tensors_changed_is_found_out(node, model):
    source, spoilt, second, reader = (node(name) for name in ("source", "spoilt", "second", "reader"))
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    assert spoilt.call("load", model=model)["equal"]
    spoilt.call("spoil")
    assert second.call("load", model=model)["equal"]
    answer = reader.call("load", model=model)  # asks `spoilt` first: its place is below that one
    assert (answer["equal"], answer["transport"]) == (True, "d2d")
    assert len(answer["steps"][0]["sources"]) == 2
    assert answer["retried"] == 23


@pytest.mark.parametrize("how", ["other", "moved"])
def test_a_write_to_what_is_published_withdraws_it(node, model, how):
    source, reader = node("source", **STAND_INS), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    source.call("write", how=how)
    # Half a second, and a digest of all.
    wait_until(lambda: source.call("states")["states"] != ["live"], 20)
    assert source.call("states")["states"] == ["failed"]
    assert reader.call("load", model=model, settings=ONLY_READS)["error"] == "NOT_PUBLISHED"


def test_a_write_of_the_same_bytes_does_not(node, model):
    source, reader = node("source", **STAND_INS), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    source.call("write", how="same")
    time.sleep(2.0)
    assert source.call("check", model=model) == {"changed": [], "states": ["live"]}
    assert reader.call("load", model=model, settings=ONLY_READS)["equal"]


def test_a_publication_that_failed_is_waited_for_no_longer(node, model):
    source = node("source", **STAND_INS)
    assert source.call("publish_and_write", model=model)["in_time"], "the write came after the digests"
    answer = source.call("settled", model=model, wait_s=600)  # a node that waited for so long would be given up
    assert not answer["settled"]
    assert "changed while they were being published" in answer["failure"]
    assert source.call("states")["states"] == ["failed"]


@both_kinds
def test_a_check_names_what_changed_and_withdraws(node, model):
    source = node("source")
    source.call("publish", model=model, settings=SMALL_CHUNKS, count=3)
    source.call("spoil_source")
    answer = source.call("check", model=model)
    assert (sorted(answer["changed"]), answer["states"]) == (["w0", "w1", "w2"], ["left"])


def test_tensors_that_count_no_writes_are_digested_first(node, model):
    source, reader = node("source", **STAND_INS), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS, inference=True)
    assert reader.call("load", model=model, settings=ONLY_READS)["equal"]
    source.call("spoil_source")
    assert reader.call("load", model=model, settings=ONLY_READS)["error"] == "INTEGRITY"


def test_another_source_takes_over_for_what_is_missing(node, model):
    source, second, reader = node("source"), node("second"), node("reader")
    source.call("publish", model=model, settings=SMALL_CHUNKS)
    assert second.call("load", model=model, settings={"chunk_bytes": 1 << 20})["equal"]
    source.faults("send@4+:freeze")
    answer = reader.call("load", model=model, deadline_s=10.0, settings={**ONLY_READS, "source_stall_s": 1.0})
    assert (answer["equal"], answer["transport"]) == (True, "d2d")
    assert answer["retried"] > 0
    assert len(answer["steps"][0]["sources"]) == 2
    source.faults()


@both_kinds
def test_what_is_evicted_is_read_by_nobody_more(node, worker, model):
    source, second, reader = node("source"), node("second"), node("reader")
    source.call("publish", model=model, settings={"lease_s": 2})
    assert second.call("load", model=model, settings={"lease_s": 2})["equal"]
    digest = Identity.of({"model": model}, op="test").digest
    # The entry by which it is found comes after the publication itself.
    assert wait_until(lambda: CliRunner().invoke(main, ["evict", "--worker", worker, digest]).exit_code == 0, 10)
    assert reader.call("load", model=model, deadline_s=5.0)["error"] == "NOT_PUBLISHED"
    assert wait_until(lambda: source.call("states") == {"states": ["lost"]}, 10)
    assert reader.call("load", model=model, deadline_s=5.0)["error"] == "NOT_PUBLISHED"  # no source brought it back
    assert source.call("publish", model=model)["state"] == "live"
    assert reader.call("load", model=model)["equal"]


@both_kinds
def test_sigterm_withdraws(node, model):
    source, reader = node("source"), node("reader")
    source.call("publish", model=model)
    source.kill(signal.SIGTERM)
    assert source.process.wait(15) == -signal.SIGTERM
    assert reader.call("load", model=model, deadline_s=5.0)["error"] == "NOT_PUBLISHED"


@pytest.mark.parametrize(("publishes", "loads"), [("cuda", "ascend"), ("ascend", "cuda")])
def test_one_kind_s_tensors_for_another_go_by_host(worker, model, tmp_path, publishes, loads):
    """The layout decides, not the device. What one kind serves of its memory, another cannot be given."""
    from nodes import Node

    source = Node(worker, tmp_path, "source", 0, publishes)
    reader = Node(worker, tmp_path, "reader", 1, loads)
    try:
        assert source.call("publish", model=model, count=0, settings={"publish_as": "d2d+host"})["state"] == "live"
        answer = reader.call("load", model=model, count=0, settings={"hold": False})
        assert (answer["equal"], answer["transport"]) == (True, "host")
        assert answer["seconds"] < 5  # nobody is waited for who cannot serve it
        source.call("publish", model=model + "by-reference", count=0, settings={"publish_as": "d2d"})
        refused = reader.call("load", model=model + "by-reference", count=0, deadline_s=5.0, settings={"hold": False})
        assert refused["error"] == "NOT_PUBLISHED"
        assert "no live source serves this generation device to device" in refused["message"]
    finally:
        reader.close()
        source.close()
