"""What a reader on a GPU believes of a source's slot, and whom it asks."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from yr_fastload_native import Config, DeviceError, FastLoadError, IntegrityError, PartialTransferError
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.ipc import neighbourhood
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.reporting.timeline import Timeline
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.transports.d2d.ipc_peer import IpcPeer
from yr_fastload_native.transports.d2d.tree import TreeSlot

WHO = Identity.of({"model": "m"}, op="test")
ADDRESSES = array("Q", [4096]).tobytes()


def told(*fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


def peer(**settings: Any) -> IpcPeer:
    config = Config(**settings)
    worker: Any = SimpleNamespace(catalogue=SimpleNamespace(store=MemoryStore()), config=config)
    return IpcPeer(worker, WHO, "0" * 24, SimpleNamespace(device=None, pool=None))  # type: ignore[arg-type]


def job() -> Any:
    return SimpleNamespace(timeline=Timeline(), deadline=Deadline(5, "load"))


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        (b"\xc1", IntegrityError, "does not tell how its memory is opened"),
        (told("here"), IntegrityError, "does not tell how its memory is opened"),
        (told("here", [(b"h", -1, 2)], ADDRESSES), IntegrityError, "does not tell how its memory is opened"),
        (told("here", [], b"1234567"), IntegrityError, "does not tell how its memory is opened"),
        (told("elsewhere", [], ADDRESSES), PartialTransferError, "in another IPC namespace.*--ipc=host"),
        (told(neighbourhood(), [], ADDRESSES), PartialTransferError, "has withdrawn"),
    ],
)
def test_what_a_slot_says_is_parsed_as_hostile_input(about: bytes, error: type[FastLoadError], message: str) -> None:
    with pytest.raises(error, match=f"machine:7 .*{message}"):
        peer().reader(TreeSlot(0, "0" * 32, "machine:7", about), 0, job())


def test_whom_a_reader_asks() -> None:
    me = peer()
    telling, silent = TreeSlot(0, "0" * 32, "machine:7", b"x"), TreeSlot(1, "1" * 32, "machine:8")
    own = TreeSlot(2, "2" * 32, me.tree.owner, b"x")
    me.tree.peers = [telling, silent, own]
    assert me.peers(job()) == [telling]
    with pytest.raises(DeviceError, match="staging='always'"):
        peer(staging="always").peers(job())


def test_a_lane_is_one_reader_s_at_a_time() -> None:
    me, source = peer(), TreeSlot(0, "0" * 32, "machine:7", b"x")
    store = me._worker.catalogue.store
    assert me.lane(source, Deadline(5, "load")) == me.lane(source, Deadline(5, "load"))
    taken = [
        key
        for key in (WHO.lane_key(source.token, lane) for lane in range(IpcPeer.LANES))
        if store.get(key, deadline_s=1)
    ]
    assert len(taken) == 1
    for lane in range(IpcPeer.LANES):
        store.set(WHO.lane_key(source.token, lane), b"somebody", ttl_s=60, deadline_s=1)
    assert peer_of(store).lane(source, Deadline(5, "load")) is None
    me.free_lanes()
    assert store.get(taken[0], deadline_s=1) is None


def peer_of(store: Any) -> IpcPeer:
    made = peer()
    made._worker.catalogue.store = store  # type: ignore[misc]
    return made
