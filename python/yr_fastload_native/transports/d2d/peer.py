"""A process's part in serving a generation device to device, and in reading it from the others."""

from __future__ import annotations

import abc
import contextlib
import logging
from array import array
from collections.abc import Sequence
from typing import ClassVar, Protocol

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import HeldKey
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import FastLoadError, ResourceExhaustedError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.d2d.tree import Tree, TreeSlot
from yr_fastload_native.transports.jobs import LoadJob, StoreSession

__all__ = ["LEAVE_S", "Peer", "PeerReader"]

_log = logging.getLogger(__name__)

LEAVE_S = 2.0
_LANE_GRACE_S = 2


class PeerReader(Protocol):
    """What reads from another peer, a `_core.ChunkReader`, once it has.

    Attributes:
        arrived: How many chunks came.
        left_because: Why the peer was left; empty if it was not.
    """

    @property
    def arrived(self) -> int: ...
    @property
    def left_because(self) -> str: ...


class Peer(abc.ABC):
    """This process's part in one generation: a slot of the tree, what it serves, and the lanes by which it reads.

    Whoever reads from a source holds one of its lanes meanwhile: a key of the store.

    Attributes:
        LANES: Of a source.
        tree: Who else serves it.
        source: What is offered chunk by chunk as they come, and serves them; None where nothing is.
        left: Whether it has withdrawn.
    """

    LANES: ClassVar[int]

    def __init__(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        self._worker = worker
        self._who = who
        self.tree = Tree(worker, who, generation)
        self.source: _core.D2dSource | None = None
        self.left = False
        self._lanes: dict[TreeSlot, int] = {}
        self._taken: list[str] = []

    @classmethod
    def why_not(cls, context: DeviceContext, addresses: array[int]) -> str | None:
        """Why tensors at these addresses cannot be served; None if they can."""
        return None

    # -- its slot -------------------------------------------------------------------------------------------------

    @property
    def held(self) -> HeldKey | None:
        """The key that tells others of it, to be kept as long as it serves."""
        return self.tree.held

    def first_keys(self) -> list[str]:
        """What to read of the store for `approach` or `join`."""
        return self.tree.first_keys()

    def claim_first(self) -> None:
        """Take the first slot of a new generation; its key is set when that is announced."""
        self.tree.claim_first()

    def join(self, values: Sequence[bytes | None], deadline: Deadline) -> None:
        """Take a slot among those who serve this generation.

        Args:
            values: Of `first_keys`.
            deadline: Of this call.

        Raises:
            ResourceExhaustedError: There is none.
        """
        self.tree.look_around(values, deadline)
        self.tree.take_slot(deadline)

    def approach(self, values: Sequence[bytes | None], deadline: Deadline, *, hold: bool) -> None:
        """Learn whom to read from.

        Args:
            values: Of `first_keys`.
            deadline: Of this call.
            hold: Whether to take a slot too; that there is none is no error.
        """
        self.tree.look_around(values, deadline)
        if hold:
            try:
                self.tree.take_slot(deadline)
            except ResourceExhaustedError as error:
                _log.debug("no source will come of this load: %s", str(error))

    def leave(self, deadline: Deadline) -> None:
        """Withdraw. Idempotent, never raises; the slot ends with its lease where it cannot be given back.

        Args:
            deadline: Of the call that this ends, kept within its moment to spare: what is not done by then goes on.
        """
        self.left = True
        self.free_lanes()
        if self.tree.mine is not None:
            self.tree.give_back(deadline.spare(LEAVE_S))
        self.stop_serving(deadline)

    # -- serving --------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def serve(self, plan: _core.Plan, addresses: array[int], owners: object) -> None:
        """Prepare to serve what comes, where others can have it before all of it is there.

        Args:
            plan: Of the generation.
            addresses: uint64[tensors of the plan].
            owners: What keeps the tensors' memory; held until nobody can read from it any more.
        """

    @abc.abstractmethod
    def serve_all(self, plan: _core.Plan, addresses: array[int], owners: object, deadline: Deadline) -> None:
        """Serve every chunk, once `start` is called.

        Raises:
            FastLoadError: It cannot be served.
        """

    @abc.abstractmethod
    def start_when_asked(self) -> None:
        """Start as soon as somebody takes a slot below this one, and chunk by chunk, if that is possible."""

    @abc.abstractmethod
    def start(self) -> None:
        """Serve all that was and will be offered, asked or not."""

    @abc.abstractmethod
    def wait_served(self, deadline_s: float) -> None:
        """Wait until readers can have all that was offered.

        Raises:
            FastLoadError: It cannot be served, or not in time.
        """

    @abc.abstractmethod
    def stop_serving(self, deadline: Deadline) -> None:
        """Take back what is served, and let go of the tensors; the slot stays. As `leave` keeps the deadline."""

    # -- reading --------------------------------------------------------------------------------------------------

    def peers(self, job: LoadJob) -> list[TreeSlot]:
        """Whom to ask, in this order.

        Raises:
            DeviceError: Nobody: this load cannot be served device to device.
        """
        return self.tree.peers_in_order()

    @abc.abstractmethod
    def lane(self, peer: TreeSlot, deadline: Deadline) -> int | None:
        """The lane to read from a peer by, this process's own until `free_lanes`; None while all of them are taken."""

    def _take_lane(self, peer: TreeSlot, lane: int, deadline: Deadline) -> bool:
        """Whether it was free."""
        key = self._who.lane_key(peer.token, lane)
        ttl_s = int(deadline.left()) + _LANE_GRACE_S
        taken = self._worker.catalogue.store.set_if_absent(
            key, self.tree.owner.encode(), ttl_s=ttl_s, deadline_s=deadline.left()
        )
        if taken:
            self._taken.append(key)
            self._lanes[peer] = lane
        return taken

    def free_lanes(self) -> None:
        """Let others have the lanes. Never raises: those that it cannot give back end with the deadline."""
        taken, self._taken = self._taken, []
        self._lanes.clear()
        if taken:
            # Done in time or not, the call goes on: a load need not wait for it.
            with contextlib.suppress(FastLoadError):
                self._worker.catalogue.store.erase(taken, deadline_s=0)

    @abc.abstractmethod
    def reader(self, peer: TreeSlot, lane: int, job: LoadJob) -> _core.ChunkReader:
        """What reads from a peer, a `PeerReader`.

        Args:
            peer: One of the tree's.
            lane: Its `lane`.
            job: The load that it reads for.

        Raises:
            FastLoadError: The peer cannot be read from.
        """

    def vouches(self, peer: TreeSlot, job: LoadJob) -> bool:
        """Whether what was read from a peer without its digests is what it serves.

        Raises:
            FastLoadError: The worker does not answer.
        """
        return True

    def after_reading(self, reader: _core.ChunkReader, *, damaged: bool) -> Sequence[int]:
        """Chunks whose tensors may still be written to at any time.

        Args:
            reader: From `reader`; it has read.
            damaged: Whether bytes were not what was asked for.
        """
        return ()
