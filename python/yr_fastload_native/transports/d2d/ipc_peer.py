"""A process's part in serving a generation on one machine, by memory of its device that others open.

A source tells in its slot how its memory is opened and where its tensors lie. A reader takes a lane, looks whether the
slot still says so, opens the memory, copies and closes it; then it frees the lane. A source that leaves takes its slot
back first, so that nobody comes any more, and waits for those that hold a lane before it lets go of the tensors.
"""

from __future__ import annotations

import logging
import os
import time
from array import array
from typing import Annotated

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.ipc import neighbourhood
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import DeviceError, FastLoadError, IntegrityError, PartialTransferError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.d2d.peer import LEAVE_S, Peer
from yr_fastload_native.transports.d2d.tree import TreeSlot
from yr_fastload_native.transports.jobs import LoadJob, StoreSession

__all__ = ["IpcPeer"]

_log = logging.getLogger(__name__)

_LOOK_S = 0.01
_ANSWER_S = 0.2  # beside the bound: the last answer counts

_Handle = Annotated[bytes, msgspec.Meta(max_length=1024)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Shared(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a source says.

    Attributes:
        neighbourhood: Whose processes can open its memory.
        allocations: Handle, address and size of each allocation, in the order of addresses.
        addresses: uint64[tensors of the plan], little-endian: where each begins; 0 if it owns no bytes.
    """

    neighbourhood: str
    allocations: list[tuple[_Handle, _Size, _Size]]
    addresses: bytes


class IpcPeer(Peer):
    """As `Peer`; it serves once all of its tensors hold what is served."""

    LANES = 32

    def __init__(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        super().__init__(worker, who, generation, context)
        self._context = context
        self._owners: object = None

    @classmethod
    def why_not(cls, context: DeviceContext, addresses: array[int]) -> str | None:
        try:
            _core.share_memory(context.device, addresses)
        except DeviceError as error:
            return str(error)
        return None

    # -- serving --------------------------------------------------------------------------------------------------

    def serve(self, plan: _core.Plan, addresses: array[int], owners: object) -> None:
        """Nobody can tell of a part of the memory that it is there."""

    def serve_all(self, plan: _core.Plan, addresses: array[int], owners: object, deadline: Deadline) -> None:
        allocations = _core.share_memory(self._context.device, addresses)
        self._owners = owners
        self.tree.tell(msgspec.msgpack.encode(_Shared(neighbourhood(), allocations, addresses.tobytes())), deadline)

    def start_when_asked(self) -> None:
        """There is nothing to start before all is there."""

    def start(self) -> None:
        """It is served from when the slot tells of it."""

    def wait_served(self, deadline_s: float) -> None:
        """It is served from when the slot tells of it."""

    def stop_serving(self, deadline: Deadline) -> None:
        if self._owners is None:
            return
        self._wait_for_readers(deadline.spare(LEAVE_S))
        self._owners = None

    def _wait_for_readers(self, bound_s: float) -> None:
        keys = [self._who.lane_key(self.tree.token, lane) for lane in range(self.LANES)]
        store, end, read = self._worker.catalogue.store, time.monotonic() + bound_s, False
        try:
            while (left := end - time.monotonic()) > 0:
                read = any(store.exist(keys, deadline_s=left + _ANSWER_S))
                if not read:
                    return
                time.sleep(_LOOK_S)
        except FastLoadError as error:
            _log.debug("could not look for readers: %s", str(error))
        if read:
            _log.warning("tensors are let go of while somebody reads them, who will find out by their digests")

    # -- reading --------------------------------------------------------------------------------------------------

    def peers(self, job: LoadJob) -> list[TreeSlot]:
        """Those that have told how their memory is opened. No process can open its own."""
        if self._worker.config.staging == "always":
            raise DeviceError(
                "staging='always' is set, and nothing verifies a GPU's memory before it is copied", op="load"
            )
        return [each for each in self.tree.peers_in_order() if each.about and each.owner != self.tree.owner]

    def lane(self, peer: TreeSlot, deadline: Deadline) -> int | None:
        if peer not in self._lanes:
            for step in range(self.LANES):  # neighbours begin with different ones
                if self._take_lane(peer, (os.getpid() + step) % self.LANES, deadline):
                    break
        return self._lanes.get(peer)

    def reader(self, peer: TreeSlot, lane: int, job: LoadJob) -> _core.IpcReader:
        with job.timeline.stage("setup"):
            return self._opened(peer, job)

    def _opened(self, peer: TreeSlot, job: LoadJob) -> _core.IpcReader:
        try:
            shared = msgspec.msgpack.decode(peer.about, type=_Shared)
            there = array("Q", shared.addresses)
        except (msgspec.MsgspecError, ValueError) as error:
            raise IntegrityError(f"{peer.owner} does not tell how its memory is opened: {error}", op="load") from None
        if shared.neighbourhood != neighbourhood():
            raise PartialTransferError(
                f"{peer.owner} is on another machine or in another IPC namespace; containers share one with --ipc=host",
                op="load",
            )
        if not self.tree.says_still(peer, job.deadline):
            raise PartialTransferError(f"{peer.owner} has withdrawn", op="load")
        reader = _core.IpcReader(
            self._context.device,
            self._context.pool,
            job.plan,
            peer=peer.owner,
            allocations=shared.allocations,
            there=there,
            addresses=job.chunks.addresses,
            digests=self._worker.config.verify == "digest" and job.generation.digests is not None,
        )
        reader.open(deadline_s=job.deadline.left())
        return reader

    def vouches(self, peer: TreeSlot, job: LoadJob) -> bool:
        """A source that withdrew meanwhile may have let go of its tensors."""
        return self._worker.config.verify == "digest" or self.tree.says_still(peer, job.deadline)
