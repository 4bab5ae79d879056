"""Chunks into a GPU's memory and out of it, on the simulated driver: bytes, counts of calls, and faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runtime import assert_calls, run

CALLS = Path(__file__).with_name("cuda_calls.json")
SIZES = [0, 1, 3, 4096, 4097, 8191, 8192, 8193, 100_003, (1 << 20) + 5, (9 << 20) + 1]


def script(text, code=0, **environment):
    return run("from gpu import *\n" + text, code, kind="cuda", **environment)


@pytest.mark.parametrize("settings", ["", "stage=True", "copy_threads=1", "verify=False"])
def test_every_byte_arrives(settings):
    said = script(
        f"""
t = Transfer({SIZES!r})
t.publish()
done, verified, failures = t.load({settings})
say([done, verified, failures, t.equal])
say(t.take_digests() == list(t.digests))
say([t.core.digest(pattern(3, 3)), t.pool.stats()["leased_bytes"], counters_of()["memory_errors"]])
""".replace("counters_of()", "__import__('yr_fastload_native.sim').sim.counters()")
    ).said
    assert said[0] == [sum(SIZES), settings != "verify=False", [], True]
    assert said[1] is True
    assert said[2][1] == 0
    assert sum(said[2][2].values()) == 0


def test_neighbours_of_a_tensor_stay_what_they_are():
    said = script("""
block = Array(bytes([9]) * 300_000)
t = Transfer([5, 70_001, 4096])
t.publish()
class Part:
    def __init__(self, offset, size): self.address, self.size = block.address + offset, size
t.target = [Part(11, 5), Part(1001, 70_001), Part(200_003, 4096)]
say(t.load()[2])
found, wanted = bytearray(block.bytes), bytearray([9]) * 300_000
for part, source in zip(t.target, t.source):
    at = part.address - block.address
    wanted[at : at + part.size] = source.bytes
say(found == wanted)
""").said
    assert said == [[], True]


def test_a_copy_stays_within_one_allocation():
    """Neighbours on both sides are two copies all the same: the driver refuses one across two allocations."""
    said = script("""
t = Transfer([1 << 20] * 3 + [4096] * 3)
pairs = [*zip(t.source, t.source[1:]), *zip(t.target, t.target[1:])]
say(all(one.address + one.size == other.address for one, other in pairs))
t.publish(); say(t.load()[2]); say(t.equal)
""").said
    assert said == [True, [], True]


def test_calls_of_the_driver_are_as_many_as_they_were():
    """A regression of the pipeline shows here without a card."""
    counted = {}
    for name, sizes in {"few large": [24 << 20, 9 << 20, 5000], "many small": [4096] * 2000}.items():
        found = script(f"""
from yr_fastload_native import sim
t = Transfer({sizes!r}, chunk_bytes=32 << 20)
def counted(function):
    before = sim.counters()["calls"]
    function(copy_threads=1)
    after = sim.counters()["calls"]
    names = ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuLaunchKernel", "cuEventRecord", "cuEventCreate",
             "cuStreamCreate", "cuMemHostAlloc", "cuMemAlloc", "cuStreamSynchronize"]
    return {{name: after.get(name, 0) - before.get(name, 0) for name in names}}
say([counted(t.publish), counted(t.load), counted(t.load)])
""")
        counted[name] = dict(zip(["publish", "load", "load again"], found.said[0], strict=True))
    assert_calls(counted, CALLS)


def test_bytes_that_were_damaged_in_the_store_are_found():
    said = script("""
t = Transfer([3 << 20, 100_000], chunk_bytes=1 << 20)
t.publish()
t.store.set_faults(corrupt=["c-1"])
done, verified, failures = t.load()
say([[chunk, code] for chunk, code, _ in failures]); say(t.equal)
t.store.set_faults(); say(t.load()[2]); say(t.equal)
""").said
    assert said == [[[1, "INTEGRITY"]], False, [], True]


@pytest.mark.parametrize("what", ["publish", "load"])
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (
            "copy:fail",
            "DEVICE",
            "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered; CUDA",
        ),
        ("pin:oom", "RESOURCE_EXHAUSTED", "page-locked bytes failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"),
        ("pin:fail", "DEVICE", "CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_faults_are_typed_and_have_the_driver_s_name(what, fault, code, message, tmp_path):
    control = tmp_path / "control"
    control.write_text("")
    said = script(
        f"""
import pathlib, time
t = Transfer([6 << 20, 4096])
{"t.publish()" if what == "load" else ""}
t.pool = t.core.PinnedPool(t.device, 64 << 20)
pathlib.Path({str(control)!r}).write_text({fault!r})
time.sleep(0.1)
say(failure(t.{what}))
say(t.pool.stats()["leased_bytes"])
""",
        YR_FASTLOAD_SIM_CONTROL=control,
    ).said
    assert said[0][0] == code
    assert message in said[0][1]
    if fault != "copy:fail":  # then the device may still use it
        assert said[1] == 0


def test_a_device_that_hangs_ends_with_the_deadline(tmp_path):
    control = tmp_path / "control"
    control.write_text("")
    said = script(
        f"""
import pathlib
t = Transfer([9 << 20])
t.publish()
pathlib.Path({str(control)!r}).write_text("copy:freeze")
time.sleep(0.1)
seconds, found = elapsed(lambda: failure(t.load, deadline_s=0.5))
say([found[0], round(seconds)]); say(t.pool.stats()["leased_bytes"] > 0)
pathlib.Path({str(control)!r}).write_text("")
time.sleep(0.1)
say(t.load()[2]); say(t.equal)
""",
        YR_FASTLOAD_SIM_CONTROL=control,
    ).said
    assert said[0][0] == "TRANSFER_TIMEOUT"
    assert said[0][1] <= 4  # the deadline, and what it waits for a device that may only be slow
    assert said[1:] == [True, [], True]


@pytest.mark.parametrize(
    ("call", "code", "message"),
    [
        ("t.core.cuda_device(8)", "DEVICE", "there is no CUDA device 8; this process sees 8"),
        ("t.core.cuda_device(-1)", "DEVICE", "there is no CUDA device -1"),
        ("Transfer([4096], pool_bytes=1 << 20).publish()", "RESOURCE_EXHAUSTED", "raise staging_bytes"),
        ("t.core.cuda_device_of(4096)", "DEVICE", "CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_bad_input(call, code, message):
    found = script(f"t = Transfer([4096]); say(failure(lambda: {call}))").said[0]
    assert found[0] == code
    assert message in found[1]


def test_a_driver_without_a_device():
    said = script(
        "from yr_fastload_native import _core; say(failure(_core.cuda_device, 0)); say(_core.cuda_device_count())",
        YR_FASTLOAD_SIM_FAULTS="init:fail",
    ).said
    assert said[0][0] == "DEVICE"
    assert "cuInit failed with CUDA_ERROR_NO_DEVICE (100)" in said[0][1]
    assert said[1] == 0


def test_a_thread_keeps_the_context_that_it_had():
    said = script("""
context, other = use(2), ctypes.c_void_p()
t = Transfer([4096], device=1)
use(2); t.publish(); t.load()
ok(cuda.cuCtxGetCurrent(ctypes.byref(other))); say(other.value == context.value)
""").said
    assert said == [True]
