"""Who keeps a generation alive, over a store inside the process."""

from __future__ import annotations

import time
from typing import Any

import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until

HEAD, DATA, SLOT = "head", ["manifest", "chunk-0", "chunk-1"], "source-"


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    put(made, HEAD, b"gen1")
    for key in DATA:
        put(made, key, b"data")
    return made


def put(store: MemoryStore, key: str, value: bytes) -> None:
    store.set(key, value, ttl_s=60, deadline_s=1)


def take(store: MemoryStore, **changes: Any) -> _core.Lease:
    settings: dict[str, Any] = {
        "head_key": HEAD,
        "head_value": b"gen1",
        "slot_prefix": SLOT,
        "owner": "me",
        "data_keys": DATA,
        "lease_s": 1,
        "data_s": 60,
        "deadline_s": 1,
    }
    return _core.Lease(store, **{**settings, **changes})


def state(lease: _core.Lease) -> str:
    return lease.status()[0]


def test_head_and_slot_outlive_their_ttl_while_held(store: MemoryStore) -> None:
    lease = take(store)
    time.sleep(1.5)
    assert state(lease) == "live"
    assert lease.status()[1] < 1
    assert store.exist([HEAD, SLOT + "0", *DATA], deadline_s=1) == [True] * 5


def test_a_dropped_lease_leaves(store: MemoryStore) -> None:
    lease = take(store)
    del lease
    assert store.keys() == []


def test_who_leaves_last_erases_everything(store: MemoryStore) -> None:
    first, second = take(store), take(store)
    assert first.sources(deadline_s=1) == 2
    first.leave(deadline_s=1)
    first.leave(deadline_s=1)
    assert state(first) == "left"
    assert sorted(store.keys()) == sorted([HEAD, SLOT + "1", *DATA])
    second.leave(deadline_s=1)
    assert store.keys() == []


def test_a_withdrawn_generation_cannot_be_joined(store: MemoryStore) -> None:
    store.erase([HEAD], deadline_s=1)
    with pytest.raises(fl.NotPublishedError):
        take(store)
    assert sorted(store.keys()) == sorted(DATA), "the slot is given back"


def test_a_replaced_generation_cannot_be_joined(store: MemoryStore) -> None:
    put(store, HEAD, b"gen2")
    with pytest.raises(fl.NotPublishedError):
        take(store)


def test_missing_data_cannot_be_joined(store: MemoryStore) -> None:
    store.erase(["chunk-1"], deadline_s=1)
    with pytest.raises(fl.NotPublishedError, match="chunk-1"):
        take(store)
    assert store.exist([HEAD], deadline_s=1) == [True]


def test_a_new_generation_ends_the_old_one(store: MemoryStore) -> None:
    lease = take(store)
    put(store, HEAD, b"gen2")
    assert wait_until(lambda: state(lease) == "superseded")
    assert wait_until(lambda: store.keys() == [HEAD]), "the old data goes, the new head stays"
    lease.leave(deadline_s=1)
    assert store.get(HEAD, deadline_s=1) == b"gen2"


def test_leaving_spares_the_head_of_a_newer_generation(store: MemoryStore) -> None:
    lease = take(store, lease_s=60)
    put(store, HEAD, b"gen2")
    lease.leave(deadline_s=1)
    assert store.keys() == [HEAD]


def test_lost_data_is_noticed(store: MemoryStore) -> None:
    lease = take(store)
    store.erase(["chunk-0"], deadline_s=1)
    assert wait_until(lambda: state(lease) == "lost")
    assert "chunk-0" in lease.status()[2]


def test_data_that_comes_back_soon_is_not_lost(store: MemoryStore) -> None:
    lease = take(store, lease_s=6)
    store.erase(["chunk-0"], deadline_s=1)
    assert wait_until(lambda: "chunk-0" in lease.status()[2])
    assert state(lease) == "live"
    put(store, "chunk-0", b"data")
    assert wait_until(lambda: lease.status()[2] == "")
    time.sleep(2.5)
    assert state(lease) == "live"
    assert store.get(HEAD, deadline_s=1) == b"gen1"


def test_data_that_is_missing_is_lost_within_a_lease(store: MemoryStore) -> None:
    """Also where nobody could say so before: other workers take over, and do not know of it."""
    lease_s = 3
    lease = take(store, lease_s=lease_s)
    store.set_faults(unreachable=True)
    assert wait_until(lambda: "does not answer" in lease.status()[2])
    store.set_faults()
    store.erase(["chunk-0"], deadline_s=1)
    assert wait_until(lambda: state(lease) == "lost", lease_s)


def test_what_is_lost_is_live_again_if_it_comes_back(store: MemoryStore) -> None:
    lease = take(store)
    store.erase(["chunk-0"], deadline_s=1)
    assert wait_until(lambda: state(lease) == "lost")
    assert wait_until(lambda: not store.exist([HEAD], deadline_s=1)[0] or store.erase([HEAD], deadline_s=1) is None)
    store.set_faults(unreachable=True)
    assert wait_until(lambda: "does not answer" in lease.status()[2])
    assert state(lease) == "lost"
    store.set_faults()
    put(store, "chunk-0", b"data")
    assert wait_until(lambda: lease.status()[::2] == ("live", ""))
    assert store.exist([HEAD, SLOT + "0", *DATA], deadline_s=1) == [True] * 5


def test_what_is_lost_is_not_kept_in_parts(store: MemoryStore) -> None:
    lease = take(store)
    store.erase(["chunk-0"], deadline_s=1)
    assert wait_until(lambda: state(lease) == "lost")
    store.advance(60)
    assert store.exist(DATA, deadline_s=1) == [False] * 3
    assert state(lease) == "lost"


def test_a_store_that_lost_everything_is_not_waited_for(store: MemoryStore) -> None:
    lease = take(store, lease_s=9)
    store.clear()
    assert wait_until(lambda: state(lease) == "lost", 6)
    assert "all of it" in lease.status()[2]


def test_keys_that_nobody_knows_of_for_a_while_are_not_lost(store: MemoryStore) -> None:
    lease = take(store)
    store.set_faults(unknown=["chunk-1"])
    assert wait_until(lambda: "nobody knows" in lease.status()[2])
    time.sleep(2.5)
    assert state(lease) == "live"
    store.set_faults()
    assert wait_until(lambda: lease.status()[2] == "")
    assert store.exist([HEAD, SLOT + "0", *DATA], deadline_s=1) == [True] * 5


def test_a_source_that_slept_too_long_revives_head_and_slot(store: MemoryStore) -> None:
    lease = take(store)
    store.erase([HEAD, SLOT + "0"], deadline_s=1)  # what their TTL does while the process is stopped
    assert wait_until(lambda: store.get(HEAD, deadline_s=1) == b"gen1")
    assert wait_until(lambda: store.exist([SLOT + "0"], deadline_s=1) == [True])
    assert state(lease) == "live"


@pytest.mark.parametrize("key", ["chunk-1", "manifest"])
def test_data_of_which_no_copy_is_left_is_lost(store: MemoryStore, key: str) -> None:
    """Though the store lists it."""
    lease = take(store)
    store.set_faults(no_copy=[key])
    assert store.exist([key], deadline_s=1) == [True]
    assert wait_until(lambda: state(lease) == "lost")
    assert key in lease.status()[2]
    assert store.exist([HEAD], deadline_s=1) == [False]


def test_what_only_this_host_finds_of_head_slot_and_entry_is_set_anew(store: MemoryStore) -> None:
    put(store, "entry-0", b"mine")
    lease = take(store, entry_keys=["entry-0"], entry_value="mine")
    store.set_faults(no_copy=[HEAD, SLOT + "0", "entry-0"])
    for key, value in {HEAD: b"gen1", SLOT + "0": b"me", "entry-0": b"mine"}.items():
        assert wait_until(lambda key=key, value=value: found(store, key) == value), key
    assert lease.status()[::2] == ("live", "")


def found(store: MemoryStore, key: str) -> bytes | None:
    """As another host finds it."""
    try:
        return store.get_many([key], deadline_s=1)[0]
    except fl.UnavailableError:
        return None


def test_slots_are_bounded(store: MemoryStore) -> None:
    for slot in range(64):
        put(store, f"{SLOT}{slot}", b"somebody")
    with pytest.raises(fl.ResourceExhaustedError, match="64"):
        take(store)


def test_a_generation_announced_with_its_first_slot_is_kept_from_then_on(store: MemoryStore) -> None:
    values = {"place-0": b"me", SLOT + "0": b"me"}
    assert store.set_all_if_absent(values, ttl_s=1, deadline_s=1)
    lease = take(store, slot_key=SLOT + "0", place_key="place-0", place_value=b"me")
    time.sleep(1.5)
    assert state(lease) == "live"
    assert store.exist(["place-0", SLOT + "0", HEAD, *DATA], deadline_s=1) == [True] * 6
    assert lease.sources(deadline_s=1) == 1
    lease.leave(deadline_s=1)
    assert store.exist(["place-0", SLOT + "0", HEAD, *DATA], deadline_s=1) == [False] * 6


def test_an_announced_generation_that_was_replaced_is_noticed(store: MemoryStore) -> None:
    put(store, SLOT + "0", b"me")
    put(store, HEAD, b"gen2")
    lease = take(store, slot_key=SLOT + "0")
    assert wait_until(lambda: state(lease) == "superseded")
    lease.leave(deadline_s=1)
    assert store.exist([HEAD], deadline_s=1) == [True]


def entry(store: MemoryStore, number: int) -> bytes | None:
    return store.get(f"entry-{number}", deadline_s=1)


def test_an_identity_that_is_kept_has_an_entry(store: MemoryStore) -> None:
    put(store, "entry-0", b"another")
    put(store, SLOT + "0", b"me")
    entries = {"entry_keys": ["entry-0", "entry-1", "entry-2"], "entry_value": "mine"}
    lease = take(store, slot_key=SLOT + "0", **entries)
    assert wait_until(lambda: entry(store, 1) == b"mine")
    second = take(store, **entries)
    time.sleep(1.5)  # longer than it lives by itself
    assert [entry(store, number) for number in range(3)] == [b"another", b"mine", None]
    lease.leave(deadline_s=1)
    assert entry(store, 1) == b"mine"
    second.leave(deadline_s=1)
    assert [entry(store, number) for number in range(3)] == [b"another", None, None]


def test_who_leaves_last_takes_the_entry_along_whoever_made_it(store: MemoryStore) -> None:
    put(store, "entry-0", b"mine")
    put(store, "entry-2", b"mine")  # of a while ago, when another was in the way
    lease = take(store, entry_keys=["entry-0", "entry-1", "entry-2"], entry_value="mine")
    lease.leave(deadline_s=1)  # before it has looked for one
    assert [entry(store, number) for number in range(3)] == [None] * 3


def test_the_entry_goes_where_the_head_has_gone_by_itself(store: MemoryStore) -> None:
    put(store, SLOT + "0", b"me")
    lease = take(store, slot_key=SLOT + "0", lease_s=60, entry_keys=["entry-0"], entry_value="mine")
    assert wait_until(lambda: entry(store, 0) == b"mine")
    store.erase([HEAD], deadline_s=1)
    lease.leave(deadline_s=1)
    assert entry(store, 0) is None


def test_a_generation_that_was_replaced_leaves_the_entry_to_the_next(store: MemoryStore) -> None:
    put(store, SLOT + "0", b"me")
    lease = take(store, slot_key=SLOT + "0", entry_keys=["entry-0"], entry_value="mine")
    assert wait_until(lambda: entry(store, 0) == b"mine")
    put(store, HEAD, b"gen2")
    assert wait_until(lambda: state(lease) == "superseded")
    lease.leave(deadline_s=1)
    assert entry(store, 0) == b"mine"


def test_without_a_free_entry_it_is_kept_all_the_same(store: MemoryStore) -> None:
    put(store, "entry-0", b"another")
    lease = take(store, entry_keys=["entry-0"], entry_value="mine")
    time.sleep(1.0)
    assert (state(lease), lease.status()[2]) == ("live", "")
