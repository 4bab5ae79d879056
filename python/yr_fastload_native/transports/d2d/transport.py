"""Reading a generation from its peers, one after the other, each what those before it did not bring."""

from __future__ import annotations

import time

from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.hetero import HeteroKind
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.errors import IntegrityError, NotPublishedError, PartialTransferError
from yr_fastload_native.reporting.load_report import AskedSource
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.d2d.tree import TreeSlot
from yr_fastload_native.transports.jobs import LoadJob, PublishJob, StoreSession
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks

__all__ = ["D2d"]

_CHUNK_BYTES = 128 << 20  # few keys: bytes cost little beside a key
_BUSY_S = 0.05


class D2d:
    """Device to device, from whoever has loaded it already."""

    name = "d2d"
    by_reference = True

    def reaches(self, kind: DeviceKind) -> bool:
        return isinstance(kind, HeteroKind)

    def largest_chunk(self, setting: int, uncut: int) -> int:
        return setting or _CHUNK_BYTES

    def data_keys(self, who: Identity, generation: str, chunks: int) -> list[str]:
        return []

    def peer(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> Peer:
        return Peer(worker, who, generation, context)

    def publish(self, job: PublishJob) -> None:
        """Copies nothing: the peer serves the tensors themselves."""

    def load(self, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
        assert wanted.peer is not None
        peers = wanted.peer.tree.peers_in_order()
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
    direct = _is_direct(wanted.job)
    reader = _reader(me, peer, lane, wanted.job, direct=direct)
    try:
        failures = wanted.read(reader, attempt)
    finally:
        attempt.sources.append(AskedSource(peer.owner, reader.arrived, reader.left_because))
        if reader.in_flight and direct:
            wanted.move_away(reader.in_flight)
    if any(failure.code == IntegrityError.code for failure in failures):
        reader.distrust()
    return failures


def _is_direct(job: LoadJob) -> bool:
    """Whether chunks go straight into the tensors: into those that can be given other memory should a transfer have to
    be abandoned, and unless they are to be verified first.
    """
    return job.table.replaceable and job.worker.config.staging == "auto"


def _reader(me: Peer, peer: TreeSlot, lane: int, job: LoadJob, *, direct: bool) -> _core.D2dReader:
    if not direct:
        return me.reader(peer, lane, job.plan, None, None)
    return me.reader(peer, lane, job.plan, job.chunks.addresses, job.table.memory())
