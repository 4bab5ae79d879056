"""Reading a generation from its peers, one after the other, each what those before it did not bring."""

from __future__ import annotations

import time
from array import array
from typing import cast

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.errors import DeviceError, IntegrityError, NotPublishedError, PartialTransferError
from yr_fastload_native.reporting.load_report import AskedSource
from yr_fastload_native.transports.d2d.mechanisms import peer_type
from yr_fastload_native.transports.d2d.peer import Peer, PeerReader
from yr_fastload_native.transports.d2d.tree import TreeSlot
from yr_fastload_native.transports.jobs import PublishJob, StoreSession
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks

__all__ = ["D2d"]

_CHUNK_BYTES = 128 << 20  # few keys: bytes cost little beside a key
_BUSY_S = 0.05


class D2d:
    """Device to device, from whoever has loaded it already."""

    name = "d2d"
    by_reference = True

    def reaches(self, kind: DeviceKind) -> bool:
        return peer_type(kind) is not None

    def why_not(self, context: DeviceContext, addresses: array[int]) -> str | None:
        peer = peer_type(context.kind)
        return None if peer is None else peer.why_not(context, addresses)

    def largest_chunk(self, setting: int, uncut: int) -> int:
        return setting or _CHUNK_BYTES

    def data_keys(self, who: Identity, generation: str, chunks: int) -> list[str]:
        return []

    def peer(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> Peer | None:
        peer = peer_type(context.kind)
        return None if peer is None else peer(worker, who, generation, context)

    def publish(self, job: PublishJob) -> None:
        """Copies nothing: the peer serves the tensors themselves."""

    def load(self, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
        assert wanted.peer is not None
        peers = wanted.peer.peers(wanted.job)
        if not peers:
            raise NotPublishedError("no live source serves this generation device to device", op="load")
        try:
            return _ask(wanted.peer, peers, wanted, attempt)
        finally:
            wanted.peer.free_lanes()


def _ask(me: Peer, peers: list[TreeSlot], wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
    """Ask one peer after the other; those that are busy with other readers once more, for half of the time."""
    deadline = wanted.job.deadline
    detail = f"{peers[0].owner} is busy with other readers"
    failures = [Failure(chunk, PartialTransferError.code, detail) for chunk in wanted.numbers]
    asked = 0
    patience = time.monotonic() + deadline.left() / 2
    while True:
        busy = []
        for peer in peers:
            lane = me.lane(peer, deadline)
            if lane is None:
                busy.append(peer)
                continue
            if asked:
                wanted.check_current()
                wanted.retried += len(failures)
            asked += 1
            failures = _read(me, peer, lane, wanted, attempt)
            if not failures:
                return []
        if not busy or time.monotonic() >= patience:
            return failures
        peers = busy
        time.sleep(_BUSY_S)


def _read(me: Peer, peer: TreeSlot, lane: int, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
    try:
        reader = me.reader(peer, lane, wanted.job)
    except (DeviceError, IntegrityError, PartialTransferError) as error:
        attempt.sources.append(AskedSource(peer.owner, 0, str(error)))
        return [Failure(chunk, PartialTransferError.code, str(error)) for chunk in wanted.numbers]
    failures: list[Failure] = []
    before = wanted.numbers, attempt.bytes
    try:
        failures = wanted.read(reader, attempt)
    finally:
        read = cast(PeerReader, reader)
        attempt.sources.append(AskedSource(peer.owner, read.arrived, read.left_because))
        damaged = any(failure.code == IntegrityError.code for failure in failures)
        touched = me.after_reading(reader, damaged=damaged)
        if touched:
            wanted.move_away(touched)
    if not me.vouches(peer, wanted.job):
        numbers, attempt.bytes = before
        wanted.want_again(numbers)
        return [Failure(each, PartialTransferError.code, f"{peer.owner} withdrew meanwhile") for each in numbers]
    return failures
