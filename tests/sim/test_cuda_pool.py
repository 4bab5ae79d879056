"""Loads into a GPU from shared memory that is page-locked where it lies: ``pin="pool"``, on the simulated driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runtime import assert_calls, run, start
from .test_cuda import PRELUDE

CALLS = Path(__file__).with_name("cuda_pool_calls.json")
SIZES = [0, 1, 4096, 8193, 65_536, 65_537, (1 << 20) + 5, (9 << 20) + 1]
_PRELUDE = """
from gpu import *
from yr_fastload_native import sim
NAMES = ["cuMemHostRegister", "cuMemHostUnregister", "cuMemcpyHtoDAsync", "cuLaunchKernel", "cuEventRecord",
         "cuMemHostAlloc"]
def calls():
    found = sim.counters()["calls"]
    return {name: found.get(name, 0) for name in NAMES}
def counted(function):
    before = calls()
    function()
    return {name: count - before[name] for name, count in calls().items()}
def mapped():
    with open("/proc/self/maps") as maps: return sum("yr-fastload-store" in line for line in maps)
def made(sizes, **settings):
    t = Transfer(sizes, **settings)
    t.publish()
    t.locked = t.core.LockedChunks(t.device)
    return t
def load(t, **settings):
    t.clear()
    done, verified, failures = t.load(**settings)
    assert t.locked is None or t.locked.settle(deadline_s=30)
    return [done == sum(each.size for each in t.source) and verified, failures, t.equal]
def let_go(t): t.locked = None
"""
RIGHT = [True, [], True]


def script(text, code=0, **environment):
    return run(_PRELUDE + text, code, kind="cuda", **environment)


def test_what_a_load_has_read_is_locked_behind_it_and_copied_from_there():
    """Nothing stays locked or mapped behind it, and nothing is unmapped before it is unlocked."""
    found = script(f"""
t = made({SIZES!r}, chunk_bytes=1 << 20)
before = mapped()
first = counted(lambda: say(load(t, copy_threads=1)))
again = counted(lambda: say(load(t, copy_threads=1)))
say([first["cuMemHostRegister"] == t.plan.chunks == t.locked.stats()["chunks"], again["cuMemHostRegister"]])
say(t.locked.stats()["locked_bytes"] == sum(t.plan.chunk_bytes))
say([again["cuMemHostAlloc"], t.pool.stats()["leased_bytes"]])
say(mapped() > before)
let_go(t)
end = calls()
say([end["cuMemHostRegister"] - end["cuMemHostUnregister"], mapped() - before])
say([sum(sim.counters()["memory_errors"].values()), t.locked])
""")
    assert found.said == [RIGHT, RIGHT, [True, 0], True, [0, 0], True, [0, 0], [0, None]]
    assert "unmapped" not in found.stderr


def test_calls_of_the_driver_are_as_many_as_they_were():
    """A regression shows here without a card."""
    counted = {}
    for name, sizes in {"few large": [24 << 20, 9 << 20, 5000], "many small": [4096] * 2000}.items():
        found = script(f"""
t = made({sizes!r}, chunk_bytes=32 << 20)
say([counted(lambda: load(t, copy_threads=1)) for _ in range(2)])
say(counted(lambda: let_go(t)))
""")
        counted[name] = {"load": found.said[0][0], "load again": found.said[0][1], "end": found.said[1]}
    assert_calls(counted, CALLS)


@pytest.mark.parametrize(
    ("fault", "locked", "message"),
    [
        ("register:oom", 0, "failed with CUDA_ERROR_OUT_OF_MEMORY (2): out of memory; raise `ulimit -l`"),
        ("register:fail", 0, "failed with CUDA_ERROR_NOT_PERMITTED (800)"),
        ("register@3+:fail", 2, "failed with CUDA_ERROR_NOT_PERMITTED (800)"),
    ],
)
def test_where_locking_is_refused_bytes_pass_through_slots(fault, locked, message):
    said = script(
        f"""
t = made({SIZES!r}, chunk_bytes=1 << 20)
say([load(t) for _ in range(3)])
say([t.locked.take_refusal(), t.locked.take_refusal(), t.locked.stats()["chunks"]])
say(counted(lambda: load(t))["cuMemHostRegister"])
let_go(t)
end = calls()
say([end["cuMemHostUnregister"], mapped()])
""",
        YR_FASTLOAD_SIM_FAULTS=fault,
    ).said
    assert said[0] == [RIGHT] * 3
    why, again, chunks = said[1]
    assert message in why
    assert again is None
    assert chunks == locked
    assert said[2:] == [0, [locked, 1]]


@pytest.mark.parametrize(
    ("settings", "pool_bytes"),
    [("verify=False", 64 << 20), ("stage=True", 64 << 20), ("", 6 << 20)],
)
def test_what_digests_do_not_guard_and_what_has_no_room_is_not_locked(settings, pool_bytes):
    said = script(f"""
t = made({SIZES!r}, chunk_bytes=1 << 20, pool_bytes={pool_bytes})
t.load({settings}); t.clear(); say([t.load({settings})[2], t.equal])
say([calls()["cuMemHostRegister"], t.locked.stats()["chunks"]])
""").said
    assert said == [[[], True], [0, 0]]


def test_a_chunk_whose_bytes_are_others_is_let_go_of(tmp_path):
    """As where the worker has given its place in the file other pages."""
    control = tmp_path / "control"
    control.write_text("")
    said = script(
        f"""
import pathlib
def fault(text): pathlib.Path({str(control)!r}).write_text(text); time.sleep(0.1)
t = made([5 << 20, 100_000], chunk_bytes=1 << 20)
load(t)
t.clear(); fault("copy@2:corrupt=1")
say([[code for _, code, _ in t.load()[2]], t.equal, t.locked.stats()["chunks"] == t.plan.chunks - 1])
fault("")
say(load(t)); say(t.locked.stats()["chunks"] == t.plan.chunks); say(load(t))
""",
        YR_FASTLOAD_SIM_CONTROL=control,
    ).said
    assert said == [[["INTEGRITY"], False, True], RIGHT, True, RIGHT]


def test_what_nobody_maps_any_more_is_let_go_of():
    """As after the end of a worker: its memory would stay as long as it is mapped."""
    said = script("""
from yr_fastload_native.testing import MemoryStore
t = made([3 << 20, 4096], chunk_bytes=1 << 20)
load(t); before = calls()
t.store = MemoryStore(); t.publish()
say([load(t), load(t)])
say([calls()["cuMemHostUnregister"] - before["cuMemHostUnregister"], t.plan.chunks, t.locked.stats()["chunks"]])
""").said
    assert said[0] == [RIGHT, RIGHT]
    assert said[1][0] == said[1][1] == said[1][2]


def test_what_the_last_loads_did_not_read_is_let_go_of():
    said = script("""
t = made([2 << 20], chunk_bytes=1 << 20)
load(t)
other = Transfer([1 << 20], chunk_bytes=1 << 20); other.store = t.store
t.store, kept = other.store, t
other.digests, _ = other.core.publish_chunks(
    other.store, other.plan, other._addresses(other.source), key_prefix="d-", ttl_s=600, chunks_in_flight=2,
    verify=True, device=other.device, pool=other.pool, copy_threads=1, deadline_s=30)
other.locked = t.locked
def load_other():
    reader = other.core.StoreReader(other.store, "d-", first_batch=1, batch=1)
    assert other._load(reader, other.digests)[2] == [] and other.equal
    assert t.locked.settle(deadline_s=30)
for _ in range(8): load_other()
say(t.locked.stats()["chunks"])
load_other()
say([t.locked.stats()["chunks"], load(t)])
""").said
    assert said == [3, [1, RIGHT]]


def test_a_device_that_hangs_ends_with_the_deadline(tmp_path):
    control = tmp_path / "control"
    control.write_text("")
    said = script(
        f"""
import pathlib
def fault(text): pathlib.Path({str(control)!r}).write_text(text); time.sleep(0.1)
t = made([9 << 20], chunk_bytes=1 << 20)
load(t)
fault("copy:freeze")
seconds, found = elapsed(lambda: failure(t.load, deadline_s=0.5))
say([found[0], round(seconds)])
fault("")
time.sleep(0.1)
t.clear(); say(t.load()[2]); say(t.equal)
""",
        YR_FASTLOAD_SIM_CONTROL=control,
    ).said
    assert said[0][0] == "TRANSFER_TIMEOUT"
    assert said[0][1] <= 6  # the deadline, and what it waits for a device that may only be slow
    assert said[1:] == [[], True]


def test_two_loads_at_a_time():
    said = script("""
import concurrent.futures
t, u = made([5 << 20, 4096] * 2, chunk_bytes=1 << 20), made([7 << 20, 100_001], chunk_bytes=1 << 20)
u.locked = t.locked
with concurrent.futures.ThreadPoolExecutor(2) as threads:
    for _ in range(3):
        t.clear(); u.clear()
        say([[each[2] for each in threads.map(Transfer.load, (t, u))], t.equal, u.equal])
""").said
    assert said == [[[[], []], True, True]] * 3


def test_memory_that_somebody_else_has_locked_too():
    """Such as openYuanrong's client its own mapping: ours is another one of the same pages."""
    said = script("""
t = made([3 << 20], chunk_bytes=1 << 20)
with open("/proc/self/maps") as maps:
    line = next(line for line in maps if "yr-fastload-store" in line)
first = int(line.split("-")[0], 16)
use()
ok(cuda.cuMemHostRegister_v2(ctypes.c_void_p(first), ctypes.c_size_t(4 << 20), 0))
say(load(t)); say(load(t)); say(t.locked.stats()["chunks"] == t.plan.chunks)
""").said
    assert said == [RIGHT, RIGHT, True]


def test_the_stand_in_s_own_rules():
    said = script(
        """
import mmap
use()
page = mmap.mmap(-1, 8192); at = ctypes.addressof(ctypes.c_char.from_buffer(page))
def register(size=8192): return cuda.cuMemHostRegister_v2(ctypes.c_void_p(at), ctypes.c_size_t(size), 1)
seen = ctypes.c_uint64()
say([register(), register(4096), cuda.cuMemHostGetDevicePointer_v2(ctypes.byref(seen), ctypes.c_void_p(at + 9), 0)])
def unregister(): return cuda.cuMemHostUnregister(ctypes.c_void_p(at))
say([seen.value != at + 9, unregister(), unregister()])
say(cuda.cuMemHostRegister_v2(ctypes.c_void_p(4096), ctypes.c_size_t(4096), 1))
ok(register())
ctypes.CDLL(None).munmap(ctypes.c_void_p(at), ctypes.c_size_t(8192))
say(unregister())
os._exit(0)
"""
    )
    assert said.said == [[0, 712, 0], [True, 0, 713], 1, 1]
    assert "page-locked memory was unmapped before it was unregistered" in said.stderr


_REAL = """
import logging
said = []
class Handler(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("yr_fastload_native").addHandler(Handler())
def weights(seed): return {f"w{i}": Array(pattern(MIB + 77 * i, seed + i)) for i in range(3)}
def pull(reader, seed):
    target = {name: Array(bytes(each.size)) for name, each in weights(seed).items()}
    report = reader.load(target, {"model": seed})
    return [report.transport, report.verified, all(target[k].bytes == v.bytes for k, v in weights(seed).items())]
def locked(reader): return sum(each["pool"]["chunks"] for each in reader.stats()["devices"].values())
def settle(reader, chunks):
    for _ in range(1000):
        if locked(reader) == chunks: return True
        time.sleep(0.01)
def calls(name): return sim.counters()["calls"].get(name, 0)
"""
PULLED = ["host", True, True]


@pytest.mark.worker
def test_by_the_real_worker_and_after_it_has_gone(own_worker, start_again):
    """What was locked of a worker that has gone is let go of at the next load, and its memory with it."""
    address = own_worker.address
    with start(
        PRELUDE.format(model="m", worker=address)
        + _REAL
        + """
settings = {"chunk_bytes": MIB, "lease_s": 3}
first = loader(**settings); kept = weights(1); n = first.publish(kept, {"model": 1}).chunks
second = loader(pin="pool", hold=False, **settings)
say([pull(second, 1), settle(second, n), pull(second, 1), pull(second, 1), calls("cuMemHostRegister") - n])
told()
first.close(); first = loader(**settings); kept = weights(5); first.publish(kept, {"model": 5})
say(pull(second, 5)); say([settle(second, n), calls("cuMemHostUnregister") - n])
say(pull(second, 5)); second.close(); time.sleep(0.1)
told_of = [each for each in said if "pin=" in each]
say([calls("cuMemHostRegister") - 2 * n, calls("cuMemHostUnregister") - 2 * n, told_of])
""",
        kind="cuda",
    ) as process:
        assert process.heard() == [PULLED, True, PULLED, PULLED, 0]
        own_worker.stop(force=True)
        start_again(address)
        process.tell(1)
        found = process.finish()
    assert found.said[1:] == [PULLED, [True, 0], PULLED, [0, 0, []]]
    assert "unmapped" not in found.stderr


@pytest.mark.worker
def test_that_locking_is_refused_is_said_once(worker):
    said = run(
        PRELUDE.format(model="m", worker=worker)
        + _REAL
        + """
first = loader(); kept = weights(9); first.publish(kept, {"model": 9})
second = loader(pin="pool", hold=False)
for _ in range(3): say(pull(second, 9)); time.sleep(0.2)
say([each for each in said if "pin='pool' is given up" in each])
""",
        kind="cuda",
        YR_FASTLOAD_SIM_FAULTS="register:code=4711",
    ).said
    assert said[:3] == [PULLED] * 3
    assert len(said[3]) == 1
    assert "failed with CUDA error (4711); raise `ulimit -l`" in said[3][0]
