"""Chunks and stores that fail: said where not byte-exact."""

from __future__ import annotations

import re
import time
from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import (
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.testing import MemoryStore

from .transfers import (
    BOUNDS,
    GRANULE,
    UNTOUCHED,
    Memory,
    Setup,
    huge_plan,
    published,
    unchanged_afterwards,
)

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
