"""What a transfer tells while it runs, and what ends it meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from yr_fastload_native import _core
from yr_fastload_native.testing import MemoryStore

from .transfers import (
    MIB,
    huge_plan,
    published,
    unchanged_afterwards,
)


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
