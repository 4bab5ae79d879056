"""Device memory that the CPU cannot reach, as that of real devices: whoever reads it as the CPU does ends there."""

from __future__ import annotations

import signal

import pytest

from .kinds import both_kinds, kinds_and_transports
from .nodes import STAND_INS
from .runtime import pair, run


@pytest.mark.parametrize("touch", ["ctypes.string_at(p, 1)", "ctypes.memset(p, 1, 1)"], ids=["load", "store"])
def test_a_touch_by_the_cpu_is_a_crash(touch):
    script = f"set_device(); p = malloc(4096); say('allocated'); {touch}; say('touched')"
    assert run(script, code=-signal.SIGSEGV).said == ["allocated"]
    assert run(script, **STAND_INS).said == ["allocated", "touched"]


def test_memory_of_the_host_stays_in_reach():
    said = run("""
set_device(); p = ctypes.c_void_p(); ok(acl.aclrtMallocHost(ctypes.byref(p), ctypes.c_size_t(64)))
d = malloc(64); ok(copy(d, buffer(64, 7), 64)); ok(copy(p, d, 64))
say(ctypes.string_at(p, 64) == pattern(64, 7))
""").said
    assert said == [True]


def test_device_copies_reach_every_byte():
    """In one go, in a stream, in a batch, in an FFTS+ graph; also from the middle of a block."""
    said = run("""
set_device(); s = stream(); size = 1000
blocks = [malloc(2 * size) for _ in range(4)]
half = lambda p: ctypes.c_void_p(p.value + size)
ok(copy(half(blocks[0]), buffer(size, 3), size))
ok(copy_async(blocks[1], half(blocks[0]), size, s))
seen = lambda p: (ctypes.c_char * size).from_address(p.value)
ok(launch([context(source=seen(blocks[1]), to=seen(half(blocks[2])), size=size)], s, 1)); ok(synchronize(s))
array = lambda kind, *values: (kind * len(values))(*values)
sizes = array(ctypes.c_size_t, size)
ok(acl.aclrtMemcpyBatch(array(ctypes.c_void_p, blocks[3].value), sizes, array(ctypes.c_void_p, blocks[2].value + size),
    sizes, ctypes.c_size_t(1), buffer(64), array(ctypes.c_size_t, 0), ctypes.c_size_t(1), None))
out = buffer(size); ok(copy(out, blocks[3], size))
say(out.raw == pattern(size, 3))
for block in blocks: ok(acl.aclrtFree(block))
say(counters()["memory_errors"])
""").said
    assert said == [True, {"double_free": 0, "unknown_free": 0, "use_after_free": 0, "out_of_bounds": 0}]


@pytest.mark.parametrize("way", ["", "refuse_reading_memory()"], ids=["memory", "socket"])
def test_bytes_go_from_device_to_device(way):
    size = 200_000
    _, said = pair(
        f"s = stream(); p = malloc({size}); ok(copy(p, buffer({size}, 5), {size})); ok(send(comm, p, {size}, s)); "
        "ok(synchronize(s))",
        f"{way}\ns = stream(); p = malloc({size}); ok(receive(comm, p, {size}, s)); ok(synchronize(s)); "
        f"out = buffer({size}); ok(copy(out, p, {size})); say(out.raw == pattern({size}, 5))",
    )
    assert said == [True]


def test_a_stream_that_lags_has_done_nothing_until_somebody_waits_for_it():
    said = run(
        """
set_device(); s = framework_stream(); p = malloc(64); out = buffer(64); later = buffer(64, 2)
ok(copy(p, buffer(64, 1), 64))
begun = time.monotonic()
ok(copy_async(p, later, 64, s)); ok(copy(out, p, 64)); say(out.raw == pattern(64, 1))
ok(synchronize(s)); ok(copy(out, p, 64)); say(out.raw == pattern(64, 2))
say(time.monotonic() - begun >= 0.5)
ok(copy_async(p, later, 64, s)); begun = time.monotonic(); ok(acl.aclrtDestroyStreamForce(s))
say(time.monotonic() - begun < 0.4)
""",
        YR_FASTLOAD_SIM_STREAM_LAG_MS=500,
    ).said
    assert said == [True] * 4


@pytest.mark.parametrize(("name", "value"), [("OPAQUE", "yes"), ("STREAM_LAG_MS", "-1"), ("STREAM_LAG_MS", "soon")])
def test_a_malformed_setting_is_refused(name, value):
    done = run("say(acl.aclInit(None))", **{f"YR_FASTLOAD_SIM_{name}": value})
    assert done.said == [100000]
    assert f"YR_FASTLOAD_SIM_{name}='{value}' is not" in done.stderr


@pytest.mark.worker
@kinds_and_transports(later=[("ascend", "d2d")])
def test_tensors_of_every_kind_move_and_are_verified(node, model, transport):
    """`host` too: the CPU reads copies that the device made, and no address of the device's."""
    source, reader = node("source"), node("reader")
    assert source.call("publish", model=model, count=0, settings={"publish_as": transport})["state"] == "live"
    answer = reader.call("load", model=model, count=0, settings={"transport": transport})
    assert (answer["equal"], answer["transport"], answer["retried"]) == (True, transport, 0)


@pytest.mark.worker
@pytest.mark.parametrize("transport", ["host", pytest.param("staged", marks=pytest.mark.long), "d2d"])
def test_chunks_are_verified_in_staging_memory_first(node, model, transport):
    source, reader = node("source"), node("reader")
    source.call("publish", model=model, count=0, settings={"publish_as": transport, "chunk_bytes": 1 << 20})
    settings = {"transport": transport, "staging": "always", "hold": False}
    assert reader.call("load", model=model, count=0, settings=settings)["equal"]
    reader.call("spoil")
    reader.call("snapshot")
    if transport == "d2d":
        reader.faults("recv:corrupt=1")
        assert reader.call("load", model=model, count=0, settings=settings)["error"] == "INTEGRITY"
        assert reader.call("unchanged") == {"unchanged": True}


@pytest.mark.worker
@pytest.mark.parametrize("transport", ["host", "staged", pytest.param("d2d", marks=pytest.mark.long)])
def test_damaged_bytes_are_found_out(node, model, transport):
    """By what the device reads back from the tensors: the CPU sees nothing of them on the way."""
    source, reader = node("source"), node("reader")
    source.call("publish", model=model, count=1, settings={"publish_as": transport})
    assert reader.call("load", model=model, count=1)["equal"]
    reader.faults("recv:corrupt=1" if transport == "d2d" else "copy@1:corrupt=1")
    answer = reader.call("load", model=model, count=1, settings={"hold": False, "transport": transport})
    assert answer.get("error") == "INTEGRITY" or (answer["equal"] and answer["retried"])


@pytest.mark.worker
@both_kinds
def test_tensors_in_ordinary_memory_are_no_device_s(node, model):
    """As on a real one: they are refused with the way out, and never taken for the device's."""
    answer = node("source").call("publish_cpu_tensors", model=model)
    assert answer["error"] == "DEVICE"
    assert "transport 'd2d' moves no tensors in CPU memory; use 'auto' or 'host'" in answer["message"]
