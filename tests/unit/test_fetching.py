"""How chunks are fetched from a store that is slow, refuses, or has little room."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.testing import MemoryStore

from .keys import keys_with

Open = Callable[..., fl.FastLoader]
Weights = dict[str, np.ndarray]

CHUNK_BYTES, CHUNKS = 1 << 16, 24
TOTAL_BYTES = CHUNK_BYTES * CHUNKS


def weights() -> Weights:
    return {f"t{number}": np.full(CHUNK_BYTES, number + 1, np.uint8) for number in range(CHUNKS)}


@pytest.fixture
def source(open_loader: Open, identity: dict[str, str]) -> Weights:
    tensors = weights()
    assert open_loader(chunk_bytes=CHUNK_BYTES).publish(tensors, identity).chunks == CHUNKS
    return tensors


def load(loader: fl.FastLoader, identity: dict[str, str], source: Weights, **arguments: float) -> fl.LoadReport:
    target = {name: np.zeros_like(tensor) for name, tensor in source.items()}
    report = loader.load(target, identity, **arguments)
    assert all(np.array_equal(target[name], tensor) for name, tensor in source.items())
    return report


def test_calls_ask_for_what_comes_in_their_time(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    """All at once would take two seconds, and a call has half a second."""
    store.set_faults(fetch_bytes_per_s=TOTAL_BYTES / 2, fetch_call_s=0.7)
    report = load(guest, identity, source)
    assert 2 <= report.seconds < 6


def test_a_link_is_not_idle_between_calls(
    open_loader: Open, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    """One call after the other would wait for as long as the link takes."""
    link_s = 0.06 * CHUNKS
    store.set_faults(fetch_bytes_per_s=TOTAL_BYTES / link_s, fetch_delay_s=0.06)
    report = load(open_loader(chunks_in_flight=4), identity, source)
    assert link_s <= report.seconds < 1.4 * link_s


def test_a_chunk_that_takes_longer_than_a_call_gets_more_time(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    store.set_faults(fetch_bytes_per_s=CHUNK_BYTES / 0.1, fetch_call_s=0.05)
    report = load(guest, identity, source)
    assert 0.1 * CHUNKS <= report.seconds < 0.2 * CHUNKS + 2


def test_a_call_that_is_refused_is_made_again(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    store.set_faults(refused_fetches=3)
    assert load(guest, identity, source).chunks_retried == 0


def test_who_refuses_for_good_is_asked_until_the_deadline(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    store.set_faults(refused_fetches=1_000_000)
    started = time.monotonic()
    with pytest.raises(fl.TransferTimeoutError, match="no answer in time"):
        load(guest, identity, source, deadline_s=2.0)
    assert 1 < time.monotonic() - started < 3


def test_a_store_that_has_gone_is_not_asked_again(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    started = time.monotonic()

    def go(done: int, total: int) -> None:
        store.set_faults(unreachable=True)

    target = {name: np.zeros_like(tensor) for name, tensor in source.items()}
    store.set_faults(fetch_delay_s=0.3)
    with pytest.raises(fl.UnavailableError, match="does not answer"):
        guest.load(target, identity, deadline_s=20.0, progress=go)
    assert time.monotonic() - started < 10


def test_a_model_goes_through_a_pool_that_is_smaller(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    store.set_faults(readable_bytes=3 * CHUNK_BYTES)
    load(guest, identity, source)


def test_a_pool_smaller_than_a_chunk_says_so(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    store.set_faults(readable_bytes=CHUNK_BYTES // 2)
    with pytest.raises(fl.ResourceExhaustedError, match="has no room for them"):
        load(guest, identity, source, deadline_s=10.0)


def test_what_is_missing_is_named_though_others_are_there(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str], source: Weights
) -> None:
    missing = keys_with(store, "chunk")[5]
    store.set_faults(missing=[missing])
    with pytest.raises(fl.PartialTransferError, match="is not in the store any more") as raised:
        load(guest, identity, source)
    assert raised.value.failed_keys == (missing,)
