"""Weights in a GPU's memory, published and loaded by the real worker, on the simulated driver."""

from __future__ import annotations

import uuid

import pytest

from .runtime import run, start

pytestmark = pytest.mark.worker

PRELUDE = """
from gpu import *
import numpy as np
import yr_fastload_native as fl
from yr_fastload_native import sim
IDENTITY = {{"model": {model!r}}}
def loader(**settings): return fl.FastLoader(fl.Config(worker={worker!r}, **settings))
KINDS = ["|b1", "|u1", "|i1", "<f2", "<i2", "<u2", "<f4", "<i4", "<f8", "<i8", "<c8"]
def raw(kind, count):
    data = pattern(count * np.dtype(kind).itemsize, 3)
    return bytes(each & 1 for each in data) if kind == "|b1" else data
def every_kind(make):
    return {{f"{{kind}}.{{count}}": make(raw(kind, count), kind) for kind in KINDS for count in (0, 1, 3, 4097)}}
def on_cpu(data, kind): return np.frombuffer(bytearray(data), kind)
def content(value): return value.tobytes() if isinstance(value, np.ndarray) else value.bytes
def zeros(make): return every_kind(lambda data, kind: make(bytes(len(data)), kind))
"""


@pytest.fixture
def script(worker):
    model = uuid.uuid4().hex

    def go(text, **environment):
        return run(PRELUDE.format(model=model, worker=worker) + text, kind="cuda", **environment)

    return go


@pytest.mark.parametrize("settings", ["", "staging='always'", "copy_threads=1", "chunk_bytes=1 << 20"])
@pytest.mark.parametrize(("source", "target"), [("Array", "Array"), ("Array", "on_cpu"), ("on_cpu", "Array")])
def test_every_dtype_arrives(script, source, target, settings):
    said = script(f"""
weights, empty = every_kind({source}), zeros({target})
with loader({settings}) as first, loader({settings}) as second:
    first.publish(weights, IDENTITY)
    report = second.load(empty, IDENTITY)
    say([report.transport, report.verified, report.bytes == sum(len(content(each)) for each in weights.values())])
    say([name for name in weights if content(weights[name]) != content(empty[name])])
    say(first.digests(weights) == second.digests(empty))
say(sum(sim.counters()["memory_errors"].values()))
""").said
    assert said == [["host", True, True], [], True, 0]


def test_nothing_of_the_device_s_memory_is_taken(script):
    said = script("""
weights = {"a": Array(pattern(9 << 20)), "b": Array(pattern(4096))}
empty = {"a": Array(bytes(9 << 20)), "b": Array(bytes(4096))}
before = sim.counters()["device_bytes"]
with loader(hold=False) as first, loader() as second:
    first.publish(weights, IDENTITY); second.load(empty, IDENTITY)
    say(sorted(second.stats()["devices"]))
say([sim.counters()["device_peak_bytes"] == before, content(empty["a"]) == content(weights["a"])])
say(sim.counters()["host_bytes"])
""").said
    assert said[1] == [True, True]
    assert said[2] == 0


def test_tensors_by_dlpack(script):
    said = script("""
weights, empty = {"a": Exported(pattern(100_003))}, {"a": Exported(bytes(100_003))}
with loader() as first, loader() as second:
    first.publish(weights, IDENTITY); second.load(empty, IDENTITY)
say(weights["a"].bytes == empty["a"].bytes)
""").said
    assert said == [True]


@pytest.mark.parametrize("own_stream", [False, True])
def test_work_under_way_on_a_stream_is_waited_for(script, own_stream):
    said = script(
        f"""
a, data, s = Array(bytes(4096)), pinned(4096), stream() if {own_stream} else None
if s: a.__cuda_array_interface__["stream"] = s.value
ctypes.memset(data, 7, 4096)
ok(upload_async(ctypes.c_uint64(a.address), data, 4096, s))
target = np.zeros(4096, "u1")
with loader() as first, loader() as second:
    first.publish({{"a": a}}, IDENTITY); second.load({{"a": target}}, IDENTITY)
say(bool((target == 7).all()))
""",
        YR_FASTLOAD_SIM_FAULTS="copy@2:delay_ms=500",
    ).said
    assert said == [True]


def test_content_digests_are_taken_over_a_gpu_s_memory(script):
    said = script("""
weights, empty = every_kind(Array), zeros(Array)
with loader(publish_sha256=True) as first, loader() as second:
    digest = first.publish(weights, IDENTITY).digest
    say(digest == fl.content_digest(every_kind(on_cpu), IDENTITY))
    second.load(empty, IDENTITY, trusted_digests=digest)
    say(failure(second.load, empty, IDENTITY, trusted_digests="0" * 64)[0])
say([name for name in weights if content(weights[name]) != content(empty[name])])
""").said
    assert said == [True, "INTEGRITY", []]


@pytest.mark.parametrize(
    ("settings", "target", "code", "message"),
    [
        (
            "",
            "{'a': Array(bytes(64)), 'b': np.zeros(64, 'u1')}",
            "INVALID_ARGUMENT",
            "'b' is on the CPU and 'a' on CUDA",
        ),
        ("", "{'a': Array(bytes(64)), 'b': Array(bytes(64), device=1)}", "INVALID_ARGUMENT", "on CUDA device 1"),
        ("", "{'a': Array(bytes(64))}", "LAYOUT_MISMATCH", "'b'"),
        ("transport='d2d'", "{'a': make(), 'b': make()}", "DEVICE", "the publication does not offer it"),
        (
            "staging_bytes=1 << 20",
            "{'a': make(), 'b': make()}",
            "RESOURCE_EXHAUSTED",
            "raise staging_bytes",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(script, settings, target, code, message):
    said = script(f"""
make = lambda **where: Array(bytes(64), **where)
with loader() as first, loader({settings}) as second:
    first.publish({{"a": Array(pattern(64)), "b": Array(pattern(64))}}, IDENTITY)
    target = {target}
    say(failure(second.load, target, IDENTITY)); say([content(each) == bytes(64) for each in target.values()])
""").said
    assert said[0][0] == code
    assert message in said[0][1]
    assert all(said[1])


def test_a_reader_goes_on_after_memory_could_not_be_page_locked(script, tmp_path):
    control = tmp_path / "control"
    control.write_text("")
    said = script(
        f"""
import pathlib
control = pathlib.Path({str(control)!r})
weights, empty = {{"a": Array(pattern(5 << 20))}}, {{"a": Array(bytes(5 << 20))}}
with loader() as first, loader() as second:
    first.publish(weights, IDENTITY)
    control.write_text("pin:oom"); time.sleep(0.1)
    say(failure(second.load, empty, IDENTITY)[0])
    control.write_text(""); time.sleep(0.1)
    second.load(empty, IDENTITY)
say(weights["a"].bytes == empty["a"].bytes)
""",
        YR_FASTLOAD_SIM_CONTROL=control,
    ).said
    assert said == ["RESOURCE_EXHAUSTED", True]


def test_a_lost_context_is_an_error_for_both_ends(script):
    said = script(
        """
with loader() as first, loader() as second:
    weights = {"a": np.ones(5 << 20, "u1")}
    first.publish(weights, IDENTITY)
    target = {"a": Array(bytes(5 << 20))}
    say(failure(second.load, target, IDENTITY)); say(failure(second.load, target, IDENTITY)[0])
    say(second.load({"a": np.zeros(5 << 20, "u1")}, IDENTITY).verified)
""",
        YR_FASTLOAD_SIM_FAULTS="copy@2+:fail",
    ).said
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in said[0][1]
    assert said[1:] == ["DEVICE", True]


def test_two_processes_and_the_first_one_dies(worker):
    model = uuid.uuid4().hex
    prelude = PRELUDE.format(model=model, worker=worker)
    publish = """
first = loader(lease_s=3); weights = every_kind(Array); first.publish(weights, IDENTITY); say(1); told()
"""
    load = """
told()
with loader(lease_s=3) as second:
    empty = zeros(Array); second.load(empty, IDENTITY); say(1); told()
    again = zeros(Array); say(second.load(again, IDENTITY).verified)
    say([name for name, each in every_kind(Array).items() if content(each) != content(again[name])])
"""
    with start(prelude + publish, kind="cuda") as first, start(prelude + load, kind="cuda") as second:
        first.heard()
        second.tell(0)
        second.heard()
        first.kill()
        second.tell(1)
        assert second.finish().said == [1, True, []]
