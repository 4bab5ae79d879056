"""Chunks that are published and loaded: byte-exact."""

from __future__ import annotations

import random
import threading
import time
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import (
    InvalidArgumentError,
)

from ..waiting import wait_until
from .transfers import (
    BOUNDS,
    GRANULE,
    MIB,
    SIZES,
    UNTOUCHED,
    Memory,
    Setup,
    blobs_of,
    published,
)


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
