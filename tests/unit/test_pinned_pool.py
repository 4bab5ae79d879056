"""The staging memory: never above its cap, waiting and reuse."""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import random
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import ResourceExhaustedError, TransferTimeoutError

GRANULE = 64 << 10


def make_pool(granules: int) -> _core.PinnedPool:
    return _core.PinnedPool(_core.cpu_device(), granules * GRANULE)


def check_stats(pool: _core.PinnedPool) -> dict[str, int]:
    stats = pool.stats()
    assert stats["leased_bytes"] + stats["cached_bytes"] <= stats["peak_bytes"] <= stats["cap_bytes"]
    assert stats["locked_bytes"] <= stats["leased_bytes"] + stats["cached_bytes"]
    return stats


def test_an_unused_pool_holds_nothing() -> None:
    assert make_pool(4).stats() == {
        "cap_bytes": 4 * GRANULE,
        "leased_bytes": 0,
        "cached_bytes": 0,
        "peak_bytes": 0,
        "locked_bytes": 0,
    }


@pytest.mark.parametrize("size", [0, 1, 4095, GRANULE - 1, GRANULE, GRANULE + 1, 3 * GRANULE])
def test_a_block_is_large_enough_page_aligned_and_usable(size: int) -> None:
    pool = make_pool(4)
    lease = pool.lease(size, deadline_s=1)
    assert lease.bytes >= size
    assert lease.address % mmap.PAGESIZE == 0
    assert pool.stats()["leased_bytes"] == lease.bytes
    ctypes.memset(lease.address, 0xAB, lease.bytes)
    assert ctypes.string_at(lease.address, lease.bytes) == b"\xab" * lease.bytes


def test_at_the_cap_there_is_none_until_one_comes_back() -> None:
    pool = make_pool(2)
    one, two = pool.try_lease(GRANULE), pool.try_lease(1)
    assert one is not None
    assert two is not None
    assert pool.try_lease(1) is None
    assert check_stats(pool)["leased_bytes"] == 2 * GRANULE
    del two
    assert check_stats(pool)["cached_bytes"] == GRANULE
    assert pool.try_lease(GRANULE) is not None


def test_a_returned_block_is_lent_again() -> None:
    pool = make_pool(8)
    first = pool.lease(2 * GRANULE, deadline_s=1)
    address = first.address
    ctypes.memset(address, 0x5C, 16)
    del first
    again = pool.lease(2 * GRANULE - 5, deadline_s=1)
    assert again.address == address
    assert ctypes.string_at(address, 16) == b"\x5c" * 16  # the same pages, not new ones at the same place
    assert check_stats(pool)["peak_bytes"] == 2 * GRANULE


@pytest.mark.parametrize("order", [(4, 3), (3, 4)])
def test_the_smallest_block_that_fits_is_lent_and_none_is_wasted(order: tuple[int, int]) -> None:
    pool = make_pool(32)
    leases = {granules: pool.lease(granules * GRANULE, deadline_s=1) for granules in order}
    addresses = {granules: lease.address for granules, lease in leases.items()}
    for granules in order:
        del leases[granules]
    assert pool.lease(2 * GRANULE, deadline_s=1).address == addresses[3]
    tiny = pool.lease(1, deadline_s=1)
    assert tiny.address not in addresses.values()
    assert tiny.bytes == GRANULE


def test_cached_blocks_make_room_for_one_of_another_size() -> None:
    pool = make_pool(4)
    leases = [pool.lease(GRANULE, deadline_s=1) for _ in range(4)]
    del leases
    assert check_stats(pool)["cached_bytes"] == 4 * GRANULE
    whole = pool.lease(4 * GRANULE, deadline_s=1)
    assert check_stats(pool)["leased_bytes"] == whole.bytes == 4 * GRANULE
    assert pool.stats()["cached_bytes"] == 0


def test_peak_is_remembered() -> None:
    pool = make_pool(8)
    pool.lease(5 * GRANULE, deadline_s=1)  # and back again
    keep = pool.lease(GRANULE, deadline_s=1)
    assert pool.stats()["peak_bytes"] == 6 * GRANULE
    del keep
    whole = pool.lease(8 * GRANULE, deadline_s=1)
    assert pool.stats()["peak_bytes"] == whole.bytes


@pytest.mark.parametrize(
    ("cap", "size"),
    [(0, 1), (0, 0), (GRANULE, GRANULE + 1), (GRANULE - 1, 1), (100_000, 70_000), (2**64 - 1, 2**64 - 1)],
)
def test_more_than_the_cap_is_refused_at_once(cap: int, size: int) -> None:
    pool = _core.PinnedPool(_core.cpu_device(), cap)
    assert pool.try_lease(size) is None
    with pytest.raises(ResourceExhaustedError, match=f"{size} bytes .* above the cap of {cap}; raise staging_bytes"):
        pool.lease(size, deadline_s=60)
    assert pool.stats()["peak_bytes"] == 0


def test_a_cap_of_64_bits_does_not_wrap() -> None:
    pool = _core.PinnedPool(_core.cpu_device(), 2**64 - 1)
    kept = pool.lease(1, deadline_s=1)
    with pytest.raises(ResourceExhaustedError):
        pool.lease(2**63, deadline_s=1)  # the system's answer, not a small block
    assert check_stats(pool)["leased_bytes"] == kept.bytes


def test_the_deadline_ends_the_wait() -> None:
    pool = make_pool(1)
    kept = pool.lease(1, deadline_s=1)
    start = time.monotonic()
    with pytest.raises(TransferTimeoutError, match="no staging memory"):
        pool.lease(1, deadline_s=0.2)
    assert 0.19 <= time.monotonic() - start < 20
    assert check_stats(pool)["leased_bytes"] == kept.bytes


def test_who_waits_gets_the_block_that_is_returned() -> None:
    pool = make_pool(1)
    kept = [pool.lease(1, deadline_s=1)]
    address = kept[0].address
    got: list[int] = []

    def wait() -> None:
        got.append(pool.lease(1, deadline_s=60).address)

    waiting = threading.Thread(target=wait)
    start = time.monotonic()
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()  # and the GIL is free while it waits, or this line would not be reached
    kept.clear()
    waiting.join(timeout=30)
    assert got == [address]
    assert time.monotonic() - start < 30


def test_a_lease_outlives_its_pool() -> None:
    pool = make_pool(2)
    lease = pool.lease(GRANULE, deadline_s=1)
    del pool
    gc.collect()
    ctypes.memset(lease.address, 1, lease.bytes)
    assert ctypes.string_at(lease.address, 4) == b"\x01" * 4
    del lease


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.booleans(), st.integers(0, 7 * GRANULE)), max_size=40))
def test_the_cap_holds_whatever_is_asked(granules: int, steps: list[tuple[bool, int]]) -> None:
    pool = make_pool(granules)
    held: list[_core.PinnedLease] = []
    for give_back, size in steps:
        if give_back and held:
            held.pop(size % len(held))
        else:
            lease = pool.try_lease(size)
            wanted = max(1, -(-size // GRANULE)) * GRANULE
            leased = sum(item.bytes for item in held)
            assert (lease is None) <= (leased + wanted > pool.stats()["cap_bytes"])  # never refused without need
            if lease is not None:
                held.append(lease)
            del lease
        assert check_stats(pool)["leased_bytes"] == sum(item.bytes for item in held)
    spans = sorted((item.address, item.address + item.bytes) for item in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_many_threads_never_share_a_block_nor_pass_the_cap() -> None:
    pool = make_pool(3)
    failures: list[str] = []

    def hammer(seed: int) -> None:
        rng = random.Random(seed)
        mark = bytes([seed]) * 64
        for _ in range(150):
            size = rng.choice([1, GRANULE, 2 * GRANULE, 3 * GRANULE])
            try:
                lease = pool.lease(size, deadline_s=60)
                ctypes.memmove(lease.address + lease.bytes - 64, mark, 64)
                time.sleep(0)
                if ctypes.string_at(lease.address + lease.bytes - 64, 64) != mark:
                    failures.append("somebody else wrote here")
                check_stats(pool)
                del lease
            except BaseException as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert not failures
    assert check_stats(pool)["leased_bytes"] == 0
