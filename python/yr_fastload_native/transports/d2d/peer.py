"""A process's part in serving a generation device to device, and in reading it from the others.

It serves its own chunks as soon as somebody has taken a slot below it in the tree: chunk by chunk, verified, while it
still reads others.

A source has a few lanes: sets of keys for the same chunks, each for one reader at a time. The holders of the two slots
below it have one each; whoever else comes takes one of the others for as long as it reads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from array import array
from collections.abc import Sequence

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import HeldKey
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.hetero import hetero
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import FastLoadError, ResourceExhaustedError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.d2d.tree import Tree, TreeSlot
from yr_fastload_native.transports.jobs import StoreSession

__all__ = ["LANES", "Peer"]

_log = logging.getLogger(__name__)

LANES = 4  # of a source: two for the slots below it, the others for whoever comes first
_LANE_GRACE_S = 2
_WATCH_S = 0.1
_LEAVE_S = 2.0


class Peer:
    """This process's part in one generation: a slot of the tree, a source, and the lanes by which it reads.

    Attributes:
        tree: Who else serves it.
        source: What serves its chunks; None while nothing is served.
    """

    def __init__(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        self._worker = worker
        self._who = who
        self._context = hetero(context, op="device")
        self.tree = Tree(worker, who, generation)
        self.source: _core.D2dSource | None = None
        self._done = threading.Event()
        self._lanes: dict[TreeSlot, int] = {}
        self._taken: list[str] = []

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
        """Learn whom to read from, and have the way to the first of them set up in the background.

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
        peers = self.tree.peers_in_order()
        lane = self.lane(peers[0], deadline) if peers else None
        if lane is not None:
            self._context.receiver.greet(self._who.d2d_prefix(peers[0].token, lane))

    # -- serving --------------------------------------------------------------------------------------------------

    def serve(self, plan: _core.Plan, addresses: array[int], owners: object) -> None:
        """Make the source; it serves what is offered to it once `start` is called.

        Args:
            plan: Of the generation.
            addresses: uint64[tensors of the plan].
            owners: What keeps the tensors' memory; held until nobody can read from it any more.
        """
        assert self._worker.connection is not None
        self.source = _core.D2dSource(
            self._worker.connection,
            device=self._context.device,
            lanes=[self._who.d2d_prefix(self.tree.token, lane) for lane in range(LANES)],
            plan=plan,
            addresses=addresses,
            owners=owners,
        )

    def serve_all(self, plan: _core.Plan, addresses: array[int], owners: object) -> None:
        """As `serve`, and offer every chunk."""
        self.serve(plan, addresses, owners)
        source = self._serving
        for chunk in range(plan.chunks):
            source.offer(chunk)

    @property
    def _serving(self) -> _core.D2dSource:
        assert self.source is not None
        return self.source

    def start_when_asked(self) -> None:
        """Start the source as soon as somebody takes a slot below this one."""
        if self.tree.mine is not None:
            threading.Thread(target=self._watch, name="yr-fastload-places", daemon=True).start()

    def _watch(self) -> None:
        source = self._serving
        while not self._done.wait(_WATCH_S):
            try:
                asked = self.tree.is_asked(_LEAVE_S)
            except FastLoadError as error:
                _log.debug("could not look for readers below: %s", str(error))
                continue
            if asked and not self._done.is_set():
                source.start()
                return

    def start(self) -> None:
        """Serve all that was and will be offered, asked or not."""
        self._stop_watching()
        self._serving.start()

    def wait_served(self, deadline_s: float) -> None:
        """Wait until readers can have all that was offered.

        Raises:
            FastLoadError: It cannot be served, or not in time.
        """
        self._serving.wait(deadline_s=deadline_s)

    def _stop_watching(self) -> None:
        """The watcher may be in a call that is late; then it ends with that, and has nothing more to do."""
        self._done.set()  # for good: who starts again does so unasked

    def leave(self, deadline: Deadline) -> None:
        """Withdraw. Idempotent, never raises; the slot ends with its lease where it cannot be given back.

        Args:
            deadline: Of the call that this ends, kept within its moment to spare: what is not done by then goes on.
        """
        self._stop_watching()
        self.free_lanes()
        if self.tree.mine is not None:
            self.tree.give_back(deadline.spare(_LEAVE_S))
        self.stop_serving(deadline)

    def stop_serving(self, deadline: Deadline) -> None:
        """Take back what is served, and let go of the tensors; the slot stays. As `leave` keeps the deadline."""
        self._stop_watching()
        if self.source is not None:
            self.source.withdraw(deadline_s=deadline.spare(_LEAVE_S))
            self.source = None

    # -- reading --------------------------------------------------------------------------------------------------

    def lane(self, peer: TreeSlot, deadline: Deadline) -> int | None:
        """The lane to read from a peer by, this process's own until `free_lanes`; None while all of them are taken."""
        if peer not in self._lanes:
            mine = self.tree.mine
            if mine is not None and peer.number == mine.above:
                self._lanes[peer] = (mine.number - 1) % 2
            else:
                self._take_lane(peer, deadline)
        return self._lanes.get(peer)

    def _take_lane(self, peer: TreeSlot, deadline: Deadline) -> None:
        store = self._worker.catalogue.store
        ttl_s = int(deadline.left()) + _LANE_GRACE_S
        for lane in range(2, LANES):
            key = self._who.lane_key(peer.token, lane)
            if store.set_if_absent(key, self.tree.owner.encode(), ttl_s=ttl_s, deadline_s=deadline.left()):
                self._taken.append(key)
                self._lanes[peer] = lane
                return

    def free_lanes(self) -> None:
        """Let others have the lanes. Never raises: those that it cannot give back end with the deadline."""
        taken, self._taken = self._taken, []
        self._lanes.clear()
        if taken:
            # Done in time or not, the call goes on: a load need not wait for it.
            with contextlib.suppress(FastLoadError):
                self._worker.catalogue.store.erase(taken, deadline_s=0)

    def reader(
        self, peer: TreeSlot, lane: int, plan: _core.Plan, addresses: array[int] | None, owners: object
    ) -> _core.D2dReader:
        """What reads from a peer.

        Args:
            peer: One of the tree's.
            lane: Its `lane`.
            plan: Of the generation.
            addresses: Of the tensors, to read straight into them; None to read into landing memory.
            owners: What keeps the tensors' memory.
        """
        config = self._worker.config
        return _core.D2dReader(
            self._context.receiver,
            plan,
            peer=peer.owner,
            key_prefix=self._who.d2d_prefix(peer.token, lane),
            stall_s=config.source_stall_s,
            chunks_ahead=config.chunks_ahead,
            addresses=addresses,
            owners=owners,
        )
