"""Memory of a GPU that another process opens, on the simulated driver: bytes, digests, counts of calls, and faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runtime import assert_calls, run, start

CALLS = Path(__file__).with_name("cuda_ipc_calls.json")
SIZES = [0, 1, 3, 4096, 4097, 8191, 8192, 8193, 65_537, 100_003, (1 << 20) + 5, (9 << 20) + 1]
MAP_FAILED, INVALID_CONTEXT, INVALID_VALUE = 205, 201, 1

SOURCE = """
from gpu import *
t = Transfer({sizes!r}, **{settings!r})
say(t.shared()); told()
"""
READER = """
from gpu import *
t = Transfer({sizes!r}, **{settings!r})
shared = told()
"""


def read(script, sizes=SIZES, environment=None, **settings):
    """What a reader says to whom a source has told how its memory is opened."""
    with (
        start(SOURCE.format(sizes=sizes, settings=settings), kind="cuda") as source,
        start(READER.format(sizes=sizes, settings=settings) + script, kind="cuda", **(environment or {})) as reader,
    ):
        reader.source = source
        reader.tell(source.heard())
        return reader.finish()


@pytest.mark.parametrize("settings", [{}, {"chunk_bytes": 1 << 20}, {"max_blobs": 1}])
@pytest.mark.parametrize("digests", [True, False])
def test_every_byte_arrives(digests, settings):
    said = read(
        f"""
say([*t.load_shared(shared, digests={digests}), t.equal]); say([t.reader.left_because, t.pool.stats()["leased_bytes"]])
say(sum(__import__("yr_fastload_native.sim").sim.counters()["memory_errors"].values()))
""",
        **settings,
    ).said
    assert said == [[sum(SIZES), digests, [], True], ["", 0], 0]


def test_digests_are_those_of_the_cpu():
    """Of aligned memory and of such that is not, by the device where it lies and by the CPU from copies of it."""
    said = run(
        f"""
from gpu import *
t = Transfer({SIZES!r}, max_blobs=1)
for offset in (0, 1, 8):
    t.source = [Array(pattern(size, 3), offset=offset) for size in {SIZES!r}]
    t.store = type(t.store)(); t.publish()
    say(t.take_digests() == list(t.digests))
""",
        kind="cuda",
    ).said
    assert said == [True] * 3


def test_bytes_that_are_not_what_they_were_are_found():
    said = read(
        """
shared["digests"][1] ^= 1
done, verified, failures = t.load_shared(shared); say([[chunk, code] for chunk, code, _ in failures])
""",
        sizes=[3 << 20, 100_000],
        chunk_bytes=1 << 20,
    ).said
    assert said == [[[1, "INTEGRITY"]]]


def test_calls_of_the_driver_are_as_many_as_they_were():
    """A regression shows here without a card."""
    counted = {}
    for name, sizes in {"few large": [150 << 20, 9 << 20, 5000], "many small": [4096] * 2000}.items():
        for how in ("digests", "no digests"):
            found = read(
                f"""
from yr_fastload_native import sim
before = sim.counters()["calls"]
t.load_shared(shared, digests={how == "digests"}, copy_threads=1)
after = sim.counters()["calls"]
names = ["cuIpcOpenMemHandle", "cuIpcCloseMemHandle", "cuMemcpyDtoDAsync", "cuLaunchKernel", "cuEventRecord",
         "cuEventCreate", "cuStreamCreate", "cuMemHostAlloc", "cuMemAlloc", "cuStreamSynchronize"]
say({{name: after.get(name, 0) - before.get(name, 0) for name in names}})
""",
                sizes=sizes,
                chunk_bytes=128 << 20,
            )
            counted[f"{name}, {how}"] = found.said[0]
    assert_calls(counted, CALLS)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("shared['there'][0] += 1 << 40", "INTEGRITY", "another describes tensors outside its memory"),
        ("shared['there'][0] += 5", "INTEGRITY", "another describes tensors outside its memory"),
        ("shared['there'].pop()", "INTEGRITY", "another describes other tensors"),
        ("shared['allocations'][0][2] = (1 << 64) - 1", "INTEGRITY", "another describes memory that cannot be"),
        ("shared['allocations'].clear()", "INTEGRITY", "another describes tensors outside its memory"),
    ],
)
def test_what_a_source_says_is_not_believed(change, code, message):
    said = read(
        f"{change}; say(failure(t.load_shared, shared)); say([each.bytes == bytes(each.size) for each in t.target])",
        sizes=[70_000, 5000],
    ).said
    assert said[0][0] == code
    assert message in said[0][1]
    assert all(said[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("shared['allocations'][0][0] = '00' * 64", "CUDA_ERROR_MAP_FAILED (205)"),
        ("shared['allocations'][0][0] = '00' * 7", "a handle of 7 bytes"),
        (
            "shared['allocations'][0][1] -= 1 << 20; shared['allocations'][0][2] += 1 << 20",
            "another describes more memory than it shares",
        ),
    ],
)
def test_memory_that_cannot_be_opened(change, message):
    said = read(f"{change}; say(failure(t.load_shared, shared)); say(t.equal)", sizes=[70_000]).said
    assert message in said[0][1]
    assert said[1] is False


def test_a_handle_of_a_process_that_died():
    settings = {"sizes": SIZES, "settings": {}}
    with (
        start(SOURCE.format(**settings), kind="cuda") as source,
        start(READER.format(**settings) + "say(failure(t.load_shared, shared))", kind="cuda") as reader,
    ):
        shared = source.heard()
        source.kill()
        reader.tell(shared)
        said = reader.finish().said
    assert said[0][0] == "DEVICE"
    assert "cuIpcOpenMemHandle failed with CUDA_ERROR_MAP_FAILED (205)" in said[0][1]


def test_a_source_that_dies_in_the_middle(tmp_path):
    control = tmp_path / "control"
    control.write_text("copy@30+:freeze")
    settings = {"sizes": [9 << 20], "settings": {"chunk_bytes": 1 << 20}}
    script = """
import threading
found = []
thread = threading.Thread(target=lambda: found.append(t.load_shared(shared))); thread.start()
while not sim.counters()["faults_hit"]: time.sleep(0.01)
say("stuck"); thread.join(); say(found[0][:2])
"""
    with (
        start(SOURCE.format(**settings), kind="cuda") as source,
        start(
            READER.format(**settings) + "from yr_fastload_native import sim" + script,
            kind="cuda",
            YR_FASTLOAD_SIM_CONTROL=control,
        ) as reader,
    ):
        reader.tell(source.heard())
        reader.heard()
        source.kill()
        control.write_text("")
        assert reader.finish().said[1] == [9 << 20, True]  # what was opened stays until it is closed


def test_a_device_that_hangs_ends_with_the_deadline(tmp_path):
    control = tmp_path / "control"
    control.write_text("copy@3+:freeze")
    said = read(
        f"""
import pathlib
seconds, found = elapsed(lambda: failure(t.load_shared, shared, deadline_s=0.5))
say([found[0], round(seconds)]); say(t.pool.stats()["leased_bytes"] > 0)
pathlib.Path({str(control)!r}).write_text(""); time.sleep(0.2)
say(t.load_shared(shared)[2]); say(t.equal)
""",
        sizes=[9 << 20],
        environment={"YR_FASTLOAD_SIM_CONTROL": control},
    ).said
    assert said[0][0] == "TRANSFER_TIMEOUT"
    assert said[0][1] <= 4  # the deadline, and what it waits for a device that may only be slow
    assert said[1:] == [True, [], True]


def test_memory_that_others_cannot_open():
    said = run(
        "from gpu import *; t = Transfer([4096]); say(failure(t.shared))",
        kind="cuda",
        YR_FASTLOAD_SIM_FAULTS="share:fail",
    ).said
    assert said[0][0] == "DEVICE"
    assert "PyTorch's expandable segments" in said[0][1]


def test_the_driver_s_own_rules():
    said = read(
        """
use(); handle = ctypes.create_string_buffer(64); mine = malloc(100)
ok(cuda.cuIpcGetMemHandle(handle, mine))
class Handle(ctypes.Structure): _fields_ = [("bytes", ctypes.c_char * 64)]
address, again = ctypes.c_uint64(), ctypes.c_uint64()
def opened(raw, into): return cuda.cuIpcOpenMemHandle_v2(ctypes.byref(into), Handle.from_buffer_copy(raw), 1)
say(opened(handle.raw, address))
theirs = bytes.fromhex(shared["allocations"][0][0])
say([opened(theirs, address), opened(theirs, again), address.value == again.value])
say([cuda.cuMemFree_v2(address), cuda.cuIpcGetMemHandle(handle, address)])
back = buffer(100); ok(download(back, address, 100)); say(back.raw == pattern(100, 1))
say([cuda.cuIpcCloseMemHandle(address), download(back, address, 100)])
say([cuda.cuIpcCloseMemHandle(address), cuda.cuIpcCloseMemHandle(address), download(back, address, 100)])
""",
        sizes=[4096],
    ).said
    assert said == [
        INVALID_CONTEXT,
        [0, 0, True],
        [INVALID_VALUE, INVALID_VALUE],
        True,
        [0, 0],
        [0, INVALID_VALUE, INVALID_VALUE],
    ]
