"""The simulated CUDA driver: memory that the CPU cannot reach, streams that lag, errors that last."""

from __future__ import annotations

import ctypes
import re
import signal
from pathlib import Path

import pytest

from yr_fastload_native import DeviceError, _core, sim

from .runtime import run
from .test_runtime_libraries import symbols

ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY, NOT_READY = 700, 1, 2, 600


def script(text, code=0, **environment):
    return run("from gpu import *\n" + text, code, kind="cuda", **environment)


def test_memory_of_a_device_is_out_of_the_cpu_s_reach():
    found = script("use(); a = malloc(4096); say(1); ctypes.memmove(buffer(16), a.value, 16); say(2)", code=None)
    assert found.code == -signal.SIGSEGV
    assert found.said == [1]


def test_bytes_go_there_and_back():
    said = script("""
use(); a, b = malloc(1000), malloc(1000)
ok(upload(a, pattern(1000), 1000))
back = buffer(1000); ok(download(back, a, 1000)); say(back.raw == pattern(1000))
ok(download(back, ctypes.c_uint64(a.value + 7), 993)); say(back.raw[:993] == pattern(1000)[7:])
say([upload(a, pattern(1000), 1001), download(back, ctypes.c_uint64(b.value + 1), 1000)])
say(cuda.cuMemFree_v2(a)); say(cuda.cuMemFree_v2(ctypes.c_uint64(12345)))
""").said
    assert said == [True, True, [INVALID_VALUE, INVALID_VALUE], 0, INVALID_VALUE]


def test_an_event_is_reached_when_what_came_before_it_is_done():
    said = script(
        """
use(); a, data, s, e = malloc(64), pinned(64), stream(), event()
say(cuda.cuEventQuery(e))
ctypes.memset(data, 7, 64)
ok(upload_async(a, data, 64, s)); ok(cuda.cuEventRecord(e, s))
say(cuda.cuEventQuery(e)); ok(cuda.cuStreamSynchronize(s)); say(cuda.cuEventQuery(e))
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=100",
    ).said
    assert said == [0, NOT_READY, 0]


def test_a_copy_that_fails_takes_the_context_with_it():
    said = script(
        """
use(); a, data, s = malloc(64), pinned(64), stream()
ok(upload_async(a, data, 64, s))
say(cuda.cuStreamSynchronize(s))
say([cuda.cuCtxSetCurrent(None), upload(a, data, 64), cuda.cuMemAlloc_v2(ctypes.byref(a), ctypes.c_size_t(1))])
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:fail",
    ).said
    assert said == [ILLEGAL_ADDRESS, [ILLEGAL_ADDRESS] * 3]


def test_freed_memory_that_a_copy_touches_is_noticed():
    found = script("""
use(); a, data, s = malloc(64), pinned(64), stream()
ok(cuda.cuMemFree_v2(a)); ok(upload_async(a, data, 64, s)); say(cuda.cuStreamSynchronize(s))
""")
    assert found.said == [ILLEGAL_ADDRESS]
    assert "use after free: a copy of 64 bytes" in found.stderr


@pytest.mark.parametrize(
    ("fault", "call", "result"),
    [
        ("init:fail", "cuda.cuInit(0)", 100),
        ("malloc@1:oom", "use() and cuda.cuMemAlloc_v2(ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(64))", 2),
        ("pin@1:oom", "use() and cuda.cuMemHostAlloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(64), 0)", 2),
        ("nonsense", "cuda.cuInit(0)", 1),
    ],
)
def test_faults_of_what_is_asked_for_once(fault, call, result):
    assert script(f"say({call})", YR_FASTLOAD_SIM_FAULTS=fault).said == [result]


def test_without_a_context_nothing_can_be_had():
    assert script("ok(cuda.cuInit(0)); say(cuda.cuMemAlloc_v2(ctypes.byref(ctypes.c_uint64()), 64))").said == [201]
    assert script("say(cuda.cuDeviceGetCount(ctypes.byref(ctypes.c_int())))").said == [3]  # nor before cuInit


def test_what_is_not_simulated_says_so_and_aborts():
    found = script("cuda.cuMemcpyBatchAsync()", code=None)
    assert found.code == -signal.SIGABRT
    assert "yr_fastload sim: cuMemcpyBatchAsync is not simulated" in found.stderr


def test_everything_that_is_asked_of_the_driver_is_there_and_nothing_else_shows():
    library = sim.library_directory("cuda") / "libcuda.so.1"
    defined = {name for name in symbols(library, "--defined-only") if not name.startswith("_Z")}
    source = Path(__file__).parents[2] / "csrc" / "devices" / "cuda_driver.cpp"
    wanted = set(re.findall(r'load\(\w+, "(cu\w+)"\)', source.read_text()))
    assert len(wanted) > 25
    assert wanted <= defined
    assert all(name.startswith(("cu", "yrfl_sim_")) for name in defined), defined


def test_this_process_has_no_simulated_gpu():
    assert not sim.active("cuda")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(DeviceError, match=r"libcuda\.so\.1 cannot be loaded.*yr-fastload sim --device cuda"):
            _core.cuda_device(0)
        assert _core.cuda_device_count() == 0
