"""PyPI's torch_npu, unmodified, on the simulated runtime: its tensors are published, served and loaded."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from ..waiting import wait_until

FOLDER = Path(__file__).parents[2] / "build" / "torch-npu"  # where `make environments` puts it
INSTALLED = (FOLDER / "torch_npu").is_dir()
LAG_S = 3

pytestmark = [
    pytest.mark.worker,
    pytest.mark.skipif(not INSTALLED and "CI" not in os.environ, reason=f"torch_npu is not in {FOLDER}"),
]


@pytest.fixture
def npu(node):
    return lambda name, **environment: node(name, NODE_TORCH_NPU=str(FOLDER), **environment)


MORE = [pytest.param(each, marks=pytest.mark.long) for each in ("staged", "host")]  # also in test_opaque.py


@pytest.mark.parametrize("transport", ["d2d", *MORE])
def test_tensors_of_every_kind_move(npu, model, transport):
    source, reader = npu("source"), npu("reader")
    settings = {"publish_as": transport}
    assert source.call("publish", model=model, count=0, settings=settings)["settled"]
    answer = reader.call("load", model=model, count=0)
    assert (answer["equal"], answer["transport"], answer["retried"]) == (True, transport, 0)
    assert source.call("devices")["used"] == ["simulated-npu:0"]
    assert reader.call("devices")["used"] == ["simulated-npu:1"]


EXPANDABLE = {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
ROWS = [list(range(start, start + 6)) for start in range(0, 24, 6)]
OPERATIONS = {
    "view": [5, 6, 7, 8],
    "slice": ROWS[1:3],
    "bytes": ROWS,
    "copy": ROWS,
    "clone": ROWS,
    "another stream": ROWS,
    "events": [True] * 3,
}


@pytest.mark.parametrize("settings", [{}, EXPANDABLE], ids=["", "expandable segments"])
def test_torch_npu_works_as_far_as_no_kernel_is_needed(npu, settings):
    assert npu("one", **settings).call("operate", what=list(OPERATIONS)) == OPERATIONS


@pytest.mark.parametrize("transport", ["d2d", "staged"])
def test_tensors_in_expandable_segments_move(npu, model, transport):
    """Some lie across pieces of 20 MiB that memory was mapped by."""
    source, reader = npu("source", **EXPANDABLE), npu("reader", **EXPANDABLE)
    tensors = {"model": model, "count": 7, "size": 9 << 20}
    assert source.call("publish", **tensors, settings={"publish_as": transport})["settled"]
    answer = reader.call("load", **tensors)
    assert (answer["equal"], answer["transport"], answer["retried"]) == (True, transport, 0)
    for each in (source, reader):
        assert each.call("counters")["calls"]["aclrtMapMem"] > 2


def test_they_and_arrays_of_others_are_the_same_model(npu, node, model):
    source, reader = npu("source"), node("reader")
    source.call("publish", model=model, count=0)
    answer = reader.call("load", model=model, count=0)
    assert (answer["equal"], answer["transport"]) == (True, "d2d")


@pytest.mark.parametrize("how", ["other", pytest.param("moved", marks=pytest.mark.long), "same"])
def test_a_write_to_what_is_published_is_noticed(npu, model, how):
    source = npu("source")
    source.call("publish", model=model, settings={"chunk_bytes": 1 << 20})
    source.call("write", how=how)
    if how == "same":
        assert source.call("check", model=model) == {"changed": [], "states": ["live"]}
    else:
        assert wait_until(lambda: source.call("states")["states"] == ["failed"], 20)


def test_a_killed_source_leaves_no_late_write(npu, model):
    """What was being read into gets other memory, which torch_npu copies."""
    source, reader = npu("source", YR_FASTLOAD_SIM_LINK_GBPS="0.1"), npu("reader")
    small = {"chunk_bytes": 1 << 20}
    source.call("publish", model=model, settings=small)
    reader.start("load", model=model, deadline_s=5.0, settings={"hold": False, "chunks_ahead": 2, **small})
    wait_until(lambda: sum(source.call("counters")["sent_bytes"].values()) > 0, 10)
    source.kill(signal.SIGSTOP)
    assert reader.finish()["error"] in ("PARTIAL_TRANSFER", "TRANSFER_TIMEOUT")
    reader.call("snapshot")
    source.kill(signal.SIGCONT)
    assert reader.call("unchanged") == {"unchanged": True}


@pytest.mark.parametrize("verify", ["digest", pytest.param("layout", marks=pytest.mark.long)])
def test_what_torch_has_asked_of_its_stream_is_waited_for(npu, model, verify):
    lags = {"YR_FASTLOAD_SIM_STREAM_LAG_MS": str(LAG_S * 1000)}
    source, reader = npu("source", **lags), npu("reader", **lags)
    settings = {"verify": verify}
    source.call("publish_unfinished", model=model, pattern=0x77, settings=settings)
    loaded = reader.call("load_over_unfinished", model=model, pattern=0x77, settings=settings, lag_s=LAG_S + 0.5)
    assert loaded == {"equal": [True] * 3, "by": "d2d"}


def test_cpu_tensors_beside_a_device_s_travel_as_copies_there(npu, model):
    assert npu("one").call("mixed_model", model=model) == {
        "refused": True,
        "weight": [float(i) for i in range(1, 10)],
        "table": [100, 1, 2, 3, 4, 5],
        "part": [3, 4],
        "shares": True,
    }


POOL = 100 << 20  # of openYuanrong, on the device, however large the model
LANDING = 32 << 20  # as set: memory of the device that copies arrive in
LAYERS = {"layers": 64, "size": 4 << 20}


def test_weights_that_processing_replaces_are_not_kept_beside_their_successors(npu, model):
    """They are copied to the worker while layers are processed; a reader holds none of them."""
    plain = npu("plain").call("process_model", model=model, replaces=True, **LAYERS)
    first = npu("first")
    settings = {"publish_device_bytes": 1 << 20, "copy_threads": 1}
    ours = first.call("process_model", model=model, replaces=True, settings=settings, **LAYERS)
    assert (ours["published"], ours["by"]) == ("inline", "staged")
    assert ours["peak"] - POOL <= 1.05 * plain["peak"], (ours, plain)
    assert npu("second").call("load_layers", model=model, **LAYERS) == {"right": True, "by": "staged"}


@pytest.mark.parametrize(("publish_as", "by"), [("d2d", "d2d"), pytest.param("auto", "staged", marks=pytest.mark.long)])
def test_a_second_instance_takes_no_more_memory_either(npu, model, publish_as, by):
    """It serves what it pulled until that has been replaced; of a copy in the worker it stays one more source."""
    plain = npu("plain").call("process_model", model=model, replaces=True, **LAYERS)
    npu("first").call("process_model", model=model, replaces=True, settings={"publish_as": publish_as}, **LAYERS)
    bounds = {"publish_device_bytes": 1 << 20, "staging_bytes": LANDING}
    second = npu("second").call("pull_and_process", model=model, replaces=True, settings=bounds, **LAYERS)
    assert (second["by"], second["right"], second["serves"]) == (by, True, by == "staged")
    beside = POOL + LANDING if by == "staged" else 0
    assert second["peak"] - beside <= 1.05 * plain["peak"], (second, plain)


def test_what_was_pulled_and_stays_is_served(npu, model):
    few = {"layers": 4, "size": 1 << 20, "replaces": False, "settings": {}}
    npu("first").call("process_model", model=model, **few)
    second = npu("second").call("pull_and_process", model=model, **few)
    assert (second["by"], second["right"], second["serves"]) == ("d2d", True, True)


NZ, FRACTAL_Z, ND = 29, 4, 2


def test_weights_in_a_private_format_are_exchanged_as_they_are_stored(npu, model):
    """Padding included, once they are processed, and for nothing but weights in the same format."""
    first = npu("first").call("private_model", model=model, value=1, number=NZ)
    assert (first["format"], first["bytes"]) == (NZ, 3 * 2 * 16 * 16 * 2)  # of 20 x 40, in blocks of 16 x 16
    assert npu("second").call("private_model", model=model, value=9, number=NZ, pull=True) == first
    other = npu("other").call("private_model", model=model, value=9, number=ND, pull=True)
    assert (other["error"], other["plain"]) == ("LAYOUT_MISMATCH", [9.0] * 5)


def test_weights_that_stay_are_published_by_reference(npu, model):
    first = npu("first")
    made = first.call("process_model", model=model, replaces=False, settings={}, layers=4, size=1 << 20)
    assert (made["published"], made["by"]) == ("background", "d2d")
    assert npu("second").call("load_layers", model=model, layers=4, size=1 << 20) == {"right": True, "by": "d2d"}


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.long)])
def test_beside_a_kv_cache_of_openyuanrong_s_own_client(npu, model, seconds):
    """On the same worker and devices, in the same processes, while weights are published, pulled and held."""
    source, reader = npu("source"), npu("reader")
    for each in (source, reader):
        each.call("start_kv_cache")
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end or rounds < 2:
        transport = ("d2d", "staged")[rounds % 2]
        name = f"{model}{rounds}"
        assert source.call("publish", model=name, count=3, settings={"publish_as": transport})["settled"]
        answer = reader.call("load", model=name, count=3)
        assert (answer["equal"], answer["transport"]) == (True, transport)
        reader.call("spoil")
        rounds += 1
    for each in (source, reader):
        kept = each.call("stop_kv_cache")
        assert (kept["wrong"], kept["error"]) == (0, None)
        assert kept["rounds"] > 1
