"""Publishing and loading chunks through a store that fails on demand: byte-exact, or said where not."""

from __future__ import annotations

import contextlib
import random
import re
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until

GRANULE = 64 << 10
MIB = 1 << 20
GUARD = 41  # odd, so that tensors begin anywhere
UNTOUCHED = 0xA5


class Memory:
    """Tensors of given sizes at odd addresses of one block, with guard bytes around each."""

    def __init__(self, sizes: list[int], seed: int | None = None) -> None:
        self.sizes = sizes
        self.starts = []
        end = GUARD
        for size in sizes:
            self.starts.append(end)
            end += size + GUARD
        self.block = np.full(end, UNTOUCHED, np.uint8)
        if seed is not None:
            rng = np.random.default_rng(seed)
            for i in range(len(sizes)):
                self.tensor(i)[:] = rng.integers(0, 256, sizes[i], np.uint8)
        base = self.block.ctypes.data
        self.addresses = array("Q", [base + a if n else 0 for a, n in zip(self.starts, sizes, strict=True)])

    def tensor(self, index: int) -> np.ndarray:
        start = self.starts[index]
        return self.block[start : start + self.sizes[index]]

    def check_guards(self) -> None:
        guard = np.ones(len(self.block), np.bool_)
        for start, size in zip(self.starts, self.sizes, strict=True):
            guard[start : start + size] = False
        assert (self.block[guard] == UNTOUCHED).all()

    def same_bytes(self, other: Memory) -> bool:
        return all(np.array_equal(self.tensor(i), other.tensor(i)) for i in range(len(self.sizes)))


def blobs_of(plan: _core.Plan, chunk: int) -> list[tuple[int, int, int, int]]:
    return [(blob.tensor, blob.tensor_offset, blob.bytes, blob.chunk_offset) for blob in plan.chunk(chunk)]


class Setup:
    """A publication in a store, and what is needed to load it."""

    def __init__(
        self, sizes: list[int], *, chunk_bytes: int = 256, max_blobs: int = 4, pool_bytes: int = MIB, seed: int = 1
    ) -> None:
        self.store = MemoryStore()
        self.device = _core.cpu_device()
        self.pool = _core.PinnedPool(self.device, pool_bytes)
        self.plan = _core.make_plan(array("Q", sizes), chunk_bytes=chunk_bytes, max_blobs=max_blobs)
        self.source = Memory(sizes, seed)
        self.digests: Any = array("Q", [0]) * self.plan.chunks

    def publish(self, **changed: Any) -> dict[str, float]:
        settings: dict[str, Any] = {
            "key_prefix": "chunk-", "ttl_s": 600, "copy_threads": 2, "chunks_in_flight": 2, "verify": True,
            "deadline_s": 120,
        }  # fmt: skip
        addresses = changed.pop("addresses", self.source.addresses)
        self.digests, seconds = _core.publish_chunks(self.store, self.plan, addresses, **(settings | changed))
        return seconds

    def load(self, into: Memory, chunks: Any = None, **changed: Any) -> tuple[int, list[Any], list[Any]]:
        settings: dict[str, Any] = {
            "digests": self.digests, "copy_threads": 2, "chunks_in_flight": 2, "verify": True, "stage": False,
            "deadline_s": 120,
        }  # fmt: skip
        chunks = array("Q", range(self.plan.chunks)) if chunks is None else chunks
        addresses = changed.pop("addresses", into.addresses)
        settings |= changed
        reader = _core.StoreReader(self.store, "chunk-", first_batch=4, batch=max(1, settings["chunks_in_flight"] // 2))
        done, verified, spans, failures = _core.load_chunks(
            reader, self.device, self.pool, self.plan, addresses, chunks, **settings
        )
        assert verified == settings["verify"]
        return done, spans, failures

    def keys(self, *chunks: int) -> list[str]:
        return [f"chunk-{chunk}" for chunk in chunks]


def test_a_publisher_tells_of_chunks_as_they_are_stored() -> None:
    """Those of small tensors first, although they are the last ones of the plan."""
    setup = Setup([2 * MIB, 100, 3 * MIB, 200], chunk_bytes=4 * MIB)
    told: list[tuple[int, int]] = []
    calls: list[int] = []

    def stored(chunks: list[tuple[int, int]]) -> None:
        calls.append(len(chunks))
        assert all(setup.store.exist(setup.keys(*(chunk for chunk, _ in chunks)), deadline_s=1))
        told.extend(chunks)

    setup.publish(stored=stored, copy_threads=1)
    assert dict(told) == dict(enumerate(setup.digests))
    assert calls[0] == 0  # once there was room for all
    assert [chunk for chunk, _ in told] == [setup.plan.chunks - 1, *range(setup.plan.chunks - 1)]


def test_a_publisher_that_may_not_go_on_takes_all_back() -> None:
    setup = Setup([2 * MIB, 100], chunk_bytes=4 * MIB)

    def stored(chunks: list[tuple[int, int]]) -> None:
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        setup.publish(stored=stored)
    assert not setup.store.keys()


def published(sizes: list[int], **settings: Any) -> tuple[Setup, Memory]:
    setup = Setup(sizes, **settings)
    setup.publish()
    return setup, Memory(sizes)


BOUNDS = st.fixed_dictionaries({"copy_threads": st.integers(1, 4), "chunks_in_flight": st.integers(1, 4)})
SIZES = st.lists(st.one_of(st.sampled_from([0, 1, 63, 64, 65, 256, 257]), st.integers(0, 1500)), max_size=20)


# -- byte-exact -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(SIZES, st.integers(1, 8).map(lambda n: 64 * n), st.integers(1, 5), BOUNDS, BOUNDS, st.booleans(), st.booleans())
def test_every_byte_arrives_and_no_other_is_touched(
    sizes: list[int], chunk_bytes: int, max_blobs: int, out: Any, back: Any, stage: bool, verify: bool
) -> None:
    setup = Setup(sizes, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    before = setup.source.block.copy()
    setup.publish(**out)
    assert sorted(setup.store.keys()) == sorted(setup.keys(*range(setup.plan.chunks)))
    assert np.array_equal(setup.source.block, before)

    into = Memory(sizes)
    began = time.monotonic()
    done, spans, failures = setup.load(into, stage=stage, verify=verify, **back)
    ended = time.monotonic()
    assert failures == []
    assert done == sum(sizes)
    assert into.same_bytes(setup.source)
    into.check_guards()
    for stage_name in ("fetch", "copy"):
        assert sorted(chunk for name, chunk, *_ in spans if name == stage_name) == list(range(setup.plan.chunks))
    assert all(began <= begin and begin + seconds <= ended and seconds >= 0 for *_, begin, seconds in spans)
    assert all((name == "fetch") == (thread == 0) for name, _, thread, *_ in spans)
    assert setup.pool.stats()["leased_bytes"] == 0


@settings(deadline=None)
@given(SIZES, st.integers(1, 8).map(lambda n: 64 * n), st.integers(1, 5))
def test_what_is_in_a_chunk(sizes: list[int], chunk_bytes: int, max_blobs: int) -> None:
    """The blobs of the plan at their offsets, zeros between them, and a digest folded from theirs."""
    setup = Setup(sizes, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    setup.publish()
    for chunk in range(setup.plan.chunks):
        expected, parts = bytearray(setup.plan.chunk_bytes[chunk]), []
        for tensor, offset, length, at in blobs_of(setup.plan, chunk):
            part = setup.source.tensor(tensor)[offset : offset + length].tobytes()
            expected[at : at + length] = part
            parts.append(_core.digest(part))
        assert setup.store.get(f"chunk-{chunk}", deadline_s=1) == bytes(expected)
        assert setup.digests[chunk] == _core.fold_digests(array("Q", parts))


@settings(deadline=None)
@given(SIZES, st.integers(1, 4), st.randoms(use_true_random=False))
def test_digest_chunks_is_what_publishing_finds(sizes: list[int], threads: int, rng: random.Random) -> None:
    setup = Setup(sizes)
    setup.publish()
    again = _core.digest_chunks(setup.plan, setup.source.addresses, copy_threads=threads, deadline_s=60)
    assert list(again) == list(setup.digests)
    some = array("Q", rng.sample(range(setup.plan.chunks), k=setup.plan.chunks // 2))
    of_some = _core.digest_chunks(setup.plan, setup.source.addresses, copy_threads=threads, deadline_s=60, chunks=some)
    assert list(of_some) == [again[chunk] for chunk in some]
    if sum(sizes):
        tensor = rng.choice([i for i, size in enumerate(sizes) if size])
        byte = rng.randrange(sizes[tensor])
        setup.source.tensor(tensor)[byte] ^= 1
        now = _core.digest_chunks(setup.plan, setup.source.addresses, copy_threads=threads, deadline_s=60)
        changed = [chunk for chunk in range(setup.plan.chunks) if now[chunk] != again[chunk]]
        holds = [
            chunk
            for chunk in range(setup.plan.chunks)
            for owner, offset, length, _ in blobs_of(setup.plan, chunk)
            if owner == tensor and offset <= byte < offset + length
        ]
        assert changed == holds


@pytest.mark.parametrize("stage", [False, True])
def test_tensors_of_several_slices(stage: bool) -> None:
    """Copies look at the cancel flag every MiB; the digest goes on across that."""
    sizes = [3 * MIB + 5, MIB, MIB - 1, 2 * MIB + 8192]
    setup, into = published(sizes, chunk_bytes=4 * MIB, pool_bytes=8 * MIB)
    assert setup.load(into, stage=stage)[0::2] == (sum(sizes), [])
    assert into.same_bytes(setup.source)
    into.check_guards()
    assert setup.digests[0] == _core.fold_digests(array("Q", [_core.digest(setup.source.tensor(0))]))


def test_loads_share_a_store_and_a_small_pool() -> None:
    sizes = [GRANULE] * 12
    setup, _ = published(sizes, chunk_bytes=GRANULE, pool_bytes=2 * GRANULE)
    targets = [Memory(sizes) for _ in range(4)]
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda into=into: results.append(setup.load(into, stage=True))) for into in targets
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert [(done, failures) for done, _, failures in results] == [(sum(sizes), [])] * 4
    assert all(into.same_bytes(setup.source) for into in targets)
    assert setup.pool.stats()["peak_bytes"] <= 2 * GRANULE


def test_only_the_chunks_that_are_asked_for() -> None:
    setup, into = published([256] * 6)
    done, _, failures = setup.load(into, array("Q", [4, 1]))
    assert (done, failures) == (512, [])
    for i in range(6):
        expected = setup.source.tensor(i) if i in (1, 4) else UNTOUCHED
        assert (into.tensor(i) == expected).all()
    assert setup.load(into, array("Q"))[0::2] == (0, [])


def test_the_time_to_live_reaches_the_store() -> None:
    setup = Setup([256] * 2)
    setup.publish(ttl_s=1)
    assert len(setup.store.keys()) == 2
    assert wait_until(lambda: setup.store.keys() == [], 30)


def test_chunk_keys() -> None:
    assert _core.chunk_keys("a-", 0) == []
    assert _core.chunk_keys("a-", 12) == [f"a-{i}" for i in range(12)]


# -- faults of chunks -------------------------------------------------------------------------------------------------

CODES = {
    "missing": ("PARTIAL_TRANSFER", "is not in the store any more"),
    "corrupt": ("INTEGRITY", "does not match its digest"),
    "truncated": ("INTEGRITY", "has 255 bytes, not 256"),
}


@settings(deadline=None)
@given(st.lists(st.sampled_from([None, None, *CODES]), min_size=1, max_size=12), BOUNDS, st.booleans())
def test_exactly_the_chunks_that_fail_are_reported(faults: list[str | None], bounds: Any, stage: bool) -> None:
    setup, into = published([256] * len(faults))
    setup.store.set_faults(
        **{kind: setup.keys(*(i for i, fault in enumerate(faults) if fault == kind)) for kind in CODES}
    )
    done, _, failures = setup.load(into, stage=stage, **bounds)
    assert failures == [(i, *CODES[fault]) for i, fault in enumerate(faults) if fault]
    assert done == 256 * faults.count(None)
    for i, fault in enumerate(faults):
        if fault is None:
            assert np.array_equal(into.tensor(i), setup.source.tensor(i))
        elif stage or fault != "corrupt":
            assert (into.tensor(i) == UNTOUCHED).all()
    into.check_guards()

    setup.store.set_faults()
    wanted = array("Q", [chunk for chunk, _, _ in failures])
    assert setup.load(into, wanted, stage=stage)[0::2] == (256 * len(failures), [])
    assert into.same_bytes(setup.source)


def test_a_chunk_of_stale_bytes_of_the_right_size_is_found() -> None:
    setup, into = published([256] * 3)
    setup.store.set("chunk-1", bytes(256), ttl_s=60, deadline_s=1)
    _, _, failures = setup.load(into, stage=True)
    assert failures == [(1, *CODES["corrupt"])]
    assert (into.tensor(1) == UNTOUCHED).all()


def test_chunks_in_each_others_place_are_found() -> None:
    setup, into = published([256] * 3)
    one, two = (setup.store.get(key, deadline_s=1) for key in setup.keys(0, 2))
    setup.store.set("chunk-0", two, ttl_s=60, deadline_s=1)
    setup.store.set("chunk-2", one, ttl_s=60, deadline_s=1)
    assert [chunk for chunk, _, _ in setup.load(into)[2]] == [0, 2]


@pytest.mark.parametrize("stage", [False, True])
def test_without_verification_bytes_are_taken_as_they_are(stage: bool) -> None:
    setup = Setup([256] * 3)
    setup.publish(verify=False)
    assert list(setup.digests) == []
    setup.store.set_faults(corrupt=setup.keys(1), truncated=setup.keys(2))
    into = Memory([256] * 3)
    done, _, failures = setup.load(into, verify=False, stage=stage)
    assert (done, failures) == (512, [(2, *CODES["truncated"])])
    assert np.array_equal(into.tensor(0), setup.source.tensor(0))
    assert np.flatnonzero(into.tensor(1) != setup.source.tensor(1)).tolist() == [128]


# -- bounds that end a transfer ---------------------------------------------------------------------------------------


def test_a_full_store_publishes_nothing() -> None:
    setup = Setup([256] * 8)
    setup.store.set_faults(capacity_bytes=8 * 256 - 1)
    with pytest.raises(ResourceExhaustedError, match="full"):
        setup.publish()
    assert setup.store.keys() == []
    setup.store.set_faults(capacity_bytes=8 * 256)
    setup.publish()
    assert len(setup.store.keys()) == 8


def test_a_store_that_goes_away_in_the_middle_keeps_nothing() -> None:
    for chunk in (0, 5, 11):
        setup = Setup([256] * 12)
        setup.store.set("stranger", b"x", ttl_s=60, deadline_s=1)
        setup.store.set_faults(refuse_seal=setup.keys(chunk))
        with pytest.raises(UnavailableError) as caught:
            setup.publish(copy_threads=1)
        assert caught.value.failed_keys == tuple(setup.keys(chunk))
        assert setup.store.keys() == ["stranger"]


@contextlib.contextmanager
def unchanged_afterwards(into: Memory) -> Iterator[None]:
    """What the body left in memory stays for a while."""
    yield
    after = into.block.copy()
    time.sleep(0.25)
    assert np.array_equal(into.block, after)


def test_a_slow_store_ends_with_the_deadline_and_writes_nothing() -> None:
    setup, into = published([256] * 4)
    setup.store.set_faults(fetch_delay_s=300)
    start = time.monotonic()
    with unchanged_afterwards(into), pytest.raises(TransferTimeoutError):
        setup.load(into, deadline_s=0.3)
    assert 0.25 < time.monotonic() - start < 60
    assert (into.block == UNTOUCHED).all()


@pytest.mark.parametrize("stage", [False, True])
def test_nothing_is_written_after_a_deadline_in_the_middle(stage: bool) -> None:
    setup, into = published([256] * 100)
    setup.store.set_faults(fetch_delay_s=0.05)
    start = time.monotonic()
    with unchanged_afterwards(into), pytest.raises(TransferTimeoutError):
        setup.load(into, deadline_s=0.3, chunks_in_flight=1, stage=stage)
    assert time.monotonic() - start < 60
    assert not into.same_bytes(setup.source)
    assert setup.pool.stats()["leased_bytes"] == 0


def huge_plan(tensors: int) -> tuple[_core.Plan, array[int], np.ndarray]:
    """A plan of many tensors that all read the same 16 MiB."""
    plan = _core.make_plan(array("Q", [16 * MIB]) * tensors, chunk_bytes=16 * MIB, max_blobs=1)
    data = np.zeros(16 * MIB, np.uint8)
    return plan, array("Q", [data.ctypes.data]) * tensors, data


def test_a_publish_that_is_late_keeps_nothing() -> None:
    plan, addresses, _data = huge_plan(8)
    store = MemoryStore()
    with pytest.raises(TransferTimeoutError, match=r"^publish: deadline passed with \d+ of 134217728 bytes copied"):
        _core.publish_chunks(
            store, plan, addresses, key_prefix="k", ttl_s=60, copy_threads=1, chunks_in_flight=1, verify=True,
            deadline_s=0,
        )  # fmt: skip
    assert store.keys() == []


def test_digests_end_with_the_deadline() -> None:
    plan, addresses, _data = huge_plan(4096)  # 64 GiB: seconds anywhere
    with pytest.raises(TransferTimeoutError, match=r"^digest: deadline passed") as caught:
        _core.digest_chunks(plan, addresses, copy_threads=1, deadline_s=0.05)
    done, total = (int(number) for number in re.findall(r"\d+", str(caught.value)))
    assert done < total == 64 << 30  # threads do not work on to the end


@pytest.mark.parametrize(("pool_bytes", "size"), [(GRANULE, 2 * GRANULE), (0, 64), (100_000, 70_000)])
def test_staging_that_is_too_small_is_refused_before_anything_is_written(pool_bytes: int, size: int) -> None:
    """In the last case the chunk is below the cap, but not the block that it needs."""
    sizes = [64] * 4 + [size]
    setup, into = published(sizes, chunk_bytes=4 * GRANULE, max_blobs=1, pool_bytes=pool_bytes)
    with pytest.raises(ResourceExhaustedError, match=f"do not fit in staging_bytes={pool_bytes}"):
        setup.load(into, stage=True)
    assert (into.block == UNTOUCHED).all()
    assert setup.load(into)[0] == sum(sizes)  # nothing is staged without need


# -- progress ---------------------------------------------------------------------------------------------------------


class StopHereError(Exception):
    pass


def recorder(calls: list[tuple[int, int]], stop_at: int = 10**9) -> Callable[[int, int], None]:
    def record(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == stop_at:
            raise StopHereError

    return record


def check_progress(calls: list[tuple[int, int]], total: int) -> None:
    assert calls
    assert {t for _, t in calls} == {total}
    done = [d for d, _ in calls]
    assert done == sorted(done)
    assert 0 <= done[0] <= done[-1] <= total


def test_progress_of_a_load() -> None:
    setup, into = published([256] * 20)
    setup.store.set_faults(fetch_delay_s=0.03)
    calls: list[tuple[int, int]] = []
    seen_from: set[int] = set()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        seen_from.add(threading.get_ident())

    setup.load(into, progress=progress, chunks_in_flight=1)
    check_progress(calls, 20 * 256)
    assert calls[-1][0] > 0
    assert seen_from == {threading.get_ident()}
    assert into.same_bytes(setup.source)


@pytest.mark.parametrize("stage", [False, True])
def test_an_exception_in_progress_ends_the_load(stage: bool) -> None:
    setup, into = published([256] * 100)
    setup.store.set_faults(fetch_delay_s=0.03)
    calls: list[tuple[int, int]] = []
    with unchanged_afterwards(into), pytest.raises(StopHereError):
        setup.load(into, progress=recorder(calls, 3), chunks_in_flight=1, stage=stage)
    assert len(calls) == 3
    assert not into.same_bytes(setup.source)
    setup.store.set_faults()
    assert setup.load(into)[2] == []


def long_enough(work: Callable[[int, Callable[[int, int], None]], Any], stop_at: int) -> list[tuple[int, int]]:
    """Runs work of ever more tensors until it takes long enough for `stop_at` calls, however fast the machine is."""
    for tensors in (16, 32, 64, 128):
        calls: list[tuple[int, int]] = []
        try:
            work(tensors, recorder(calls, stop_at))
        except StopHereError:
            check_progress(calls, tensors * 16 * MIB)
            return calls
    raise AssertionError("2 GiB were too few")


def test_an_exception_in_progress_ends_a_publish_and_keeps_nothing() -> None:
    stores = []

    def publish(tensors: int, progress: Callable[[int, int], None]) -> None:
        plan, addresses, _data = huge_plan(tensors)
        stores[:] = [MemoryStore()]
        _core.publish_chunks(
            stores[0], plan, addresses, key_prefix="k", ttl_s=60, copy_threads=1, chunks_in_flight=1, verify=True,
            deadline_s=120, progress=progress,
        )  # fmt: skip

    assert len(long_enough(publish, 1)) == 1
    assert stores[0].keys() == []


def test_an_exception_in_progress_ends_digests() -> None:
    plan, addresses, _data = huge_plan(4096)
    calls: list[tuple[int, int]] = []
    with pytest.raises(StopHereError):
        _core.digest_chunks(plan, addresses, copy_threads=1, deadline_s=120, progress=recorder(calls, 2))
    check_progress(calls, 64 << 30)


def test_a_signal_ends_a_load_without_progress() -> None:
    def stop(*_: object) -> None:
        raise StopHereError

    setup, into = published([256] * 200)
    setup.store.set_faults(fetch_delay_s=0.1)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with unchanged_afterwards(into), pytest.raises(StopHereError):
            setup.load(into, chunks_in_flight=1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not into.same_bytes(setup.source)


def test_other_threads_run_while_a_load_waits() -> None:
    setup, into = published([256] * 4)
    setup.store.set_faults(fetch_delay_s=0.3)
    loading = threading.Thread(target=setup.load, args=(into,))
    loading.start()
    time.sleep(0.05)
    assert loading.is_alive()
    loading.join(timeout=60)
    assert into.same_bytes(setup.source)


def test_arrays_cannot_be_resized_under_a_load() -> None:
    setup, into = published([256] * 20)
    setup.store.set_faults(fetch_delay_s=0.05)
    with pytest.raises(BufferError):
        setup.load(into, progress=lambda *_: into.addresses.append(0))
    into.addresses.append(0)


# -- arguments --------------------------------------------------------------------------------------------------------

NOT_FLAT_U64 = [
    np.zeros(4, np.int64),
    np.zeros(4, np.float64),
    np.zeros(4, np.uint32),
    np.zeros(4, np.bool_),
    np.zeros(4, ">u8"),
    np.zeros((2, 2), np.uint64),
    np.zeros((), np.uint64),
    np.zeros(8, np.uint64)[::2],
    np.zeros(4, np.uint64)[::-1],
    array("q", [0] * 4),
    bytes(32),
]


@pytest.mark.parametrize(
    "wrong", NOT_FLAT_U64, ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}"
)
def test_arrays_of_another_kind_are_refused(wrong: Any) -> None:
    setup, into = published([256] * 4)
    flat = "is not a flat array of uint64"
    for call, name in (
        (lambda: setup.load(into, addresses=wrong), "addresses"),
        (lambda: setup.load(into, wrong), "chunks"),
        (lambda: setup.load(into, digests=wrong), "digests"),
        (lambda: setup.publish(addresses=wrong), "addresses"),
        (lambda: _core.digest_chunks(setup.plan, wrong, copy_threads=1, deadline_s=1), "addresses"),
        (lambda: _core.fold_digests(wrong), "digests"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"{name} {flat}"):
            call()
    assert (into.block == UNTOUCHED).all()


dtypes = st.sampled_from([*"?bBhHiIlLqQefdgFD", "u8", ">u8", "<u8", "M8[s]", "S8", "V8"])


@settings(deadline=None)
@given(dtypes.map(np.dtype), st.lists(st.integers(0, 3), max_size=3), st.integers(1, 3))
def test_only_flat_uint64_of_the_right_length_is_taken(dtype: np.dtype[Any], shape: list[int], step: int) -> None:
    setup = Setup([0, 0])  # nothing moves, so that any address will do
    wrong = np.zeros(shape, dtype)[..., ::step] if shape else np.zeros(shape, dtype)
    flat = wrong.ndim == 1 and (wrong.size <= 1 or wrong.strides == (8,))
    good = dtype == np.uint64 and flat and wrong.size == 2
    try:
        setup.publish(addresses=wrong)
    except (InvalidArgumentError, ValueError, BufferError):
        assert not good
    else:
        assert good


@pytest.mark.parametrize("wrong", [None, 3, [1, 2, 3, 4], "text"])
def test_things_that_are_no_arrays_are_refused(wrong: Any) -> None:
    setup, into = published([256] * 4)
    if wrong is not None:
        for changed in ({"addresses": wrong}, {"digests": wrong}):
            with pytest.raises(TypeError):
                setup.load(into, **changed)
    with pytest.raises(TypeError):
        setup.publish(addresses=wrong)
    assert (into.block == UNTOUCHED).all()


def test_lengths_and_indices_must_fit_the_plan() -> None:
    setup, into = published([256, 0, 256])
    for addresses in (into.addresses[:2], into.addresses + array("Q", [1]), array("Q")):
        with pytest.raises(InvalidArgumentError, match=f"{len(addresses)} addresses for a plan of 3 tensors"):
            setup.load(into, addresses=addresses)
        with pytest.raises(InvalidArgumentError, match="addresses for a plan of 3 tensors"):
            setup.publish(addresses=addresses)
        with pytest.raises(InvalidArgumentError, match="addresses for a plan of 3 tensors"):
            _core.digest_chunks(setup.plan, addresses, copy_threads=1, deadline_s=1)
    for chunks in ([2], [0, 2**64 - 1]):
        with pytest.raises(InvalidArgumentError, match=f"chunk {chunks[-1]} is not in the plan"):
            setup.load(into, array("Q", chunks))
    for digests in (array("Q", [1]), array("Q", [1, 2, 3]), array("Q")):
        with pytest.raises(InvalidArgumentError, match="digests differ in number"):
            setup.load(into, digests=digests)
    assert (into.block == UNTOUCHED).all()


def test_a_tensor_that_moves_has_an_address() -> None:
    setup, into = published([256, 0, 256])
    addresses = array("Q", [*into.addresses[:2], 0])
    for call in (
        lambda: setup.load(into, addresses=addresses),
        lambda: setup.publish(addresses=addresses),
        lambda: _core.digest_chunks(setup.plan, addresses, copy_threads=1, deadline_s=1),
    ):
        with pytest.raises(InvalidArgumentError, match="tensor 2 has no address"):
            call()
    assert (into.block == UNTOUCHED).all()


def test_an_empty_plan() -> None:
    setup, into = published([0, 0])
    assert setup.store.keys() == []
    assert list(setup.digests) == []
    assert setup.load(into, stage=True)[0::2] == (0, [])


# -- the yardstick of the benchmarks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_plain_memcpy_copies_everything_once(threads: int) -> None:
    sizes = [0, 1, 20 * MIB + 3, 8 * MIB, 77]
    source, into = Memory(sizes, 5), Memory(sizes)
    seconds = _core.memcpy_seconds(into.addresses, source.addresses, array("Q", sizes), threads)
    assert seconds > 0
    assert into.same_bytes(source)
    into.check_guards()
    with pytest.raises(InvalidArgumentError, match="differ in length"):
        _core.memcpy_seconds(into.addresses, source.addresses, array("Q", sizes[:-1]), threads)
