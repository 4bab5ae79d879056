"""A process's part in serving a generation from NPU to NPU, by openYuanrong's HeteroClient.

It serves its own chunks as soon as somebody has taken a slot below it in the tree: chunk by chunk, verified, while it
still reads others.

A source has a few lanes: sets of keys for the same chunks, each for one reader at a time. The holders of the two slots
below it have one each; whoever else comes takes one of the others for as long as it reads.
"""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Sequence

from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.hetero import hetero
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.d2d.peer import LEAVE_S, Peer
from yr_fastload_native.transports.d2d.tree import TreeSlot
from yr_fastload_native.transports.jobs import LoadJob, StoreSession

__all__ = ["HeteroPeer"]

_log = logging.getLogger(__name__)

_WATCH_S = 0.1


class HeteroPeer(Peer):
    """As `Peer`, with a source that offers chunks one by one."""

    LANES = 4  # two for the slots below a source, the others for whoever comes first

    def __init__(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        super().__init__(worker, who, generation, context)
        self._context = hetero(context, op="device")
        self._done = threading.Event()

    def approach(self, values: Sequence[bytes | None], deadline: Deadline, *, hold: bool) -> None:
        """As `Peer`, and has the way to the first of them set up in the background."""
        super().approach(values, deadline, hold=hold)
        peers = self._served()
        lane = self.lane(peers[0], deadline) if peers else None
        if lane is not None:
            self._context.receiver.greet(self._who.d2d_prefix(peers[0].token, lane))

    def peers(self, job: LoadJob) -> list[TreeSlot]:
        return self._served()

    def _served(self) -> list[TreeSlot]:
        """Without those that tell how their memory is opened: they are on devices of another kind."""
        return [each for each in self.tree.peers_in_order() if not each.about]

    # -- serving --------------------------------------------------------------------------------------------------

    def serve(self, plan: _core.Plan, addresses: array[int], owners: object) -> None:
        """Make the source; it serves what is offered to it once `start` is called."""
        assert self._worker.connection is not None
        self.source = _core.D2dSource(
            self._worker.connection,
            device=self._context.device,
            lanes=[self._who.d2d_prefix(self.tree.token, lane) for lane in range(self.LANES)],
            plan=plan,
            addresses=addresses,
            owners=owners,
        )

    def serve_all(self, plan: _core.Plan, addresses: array[int], owners: object, deadline: Deadline) -> None:
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
        if self.tree.mine is not None:
            threading.Thread(target=self._watch, name="yr-fastload-places", daemon=True).start()

    def _watch(self) -> None:
        source = self._serving
        while not self._done.wait(_WATCH_S):
            try:
                asked = self.tree.is_asked(LEAVE_S)
            except FastLoadError as error:
                _log.debug("could not look for readers below: %s", str(error))
                continue
            if asked and not self._done.is_set():
                source.start()
                return

    def start(self) -> None:
        self._stop_watching()
        self._serving.start()

    def wait_served(self, deadline_s: float) -> None:
        self._serving.wait(deadline_s=deadline_s)

    def _stop_watching(self) -> None:
        """The watcher may be in a call that is late; then it ends with that, and has nothing more to do."""
        self._done.set()  # for good: who starts again does so unasked

    def leave(self, deadline: Deadline) -> None:
        self._stop_watching()
        super().leave(deadline)

    def stop_serving(self, deadline: Deadline) -> None:
        self._stop_watching()
        if self.source is not None:
            self.source.withdraw(deadline_s=deadline.spare(LEAVE_S))
            self.source = None

    # -- reading --------------------------------------------------------------------------------------------------

    def lane(self, peer: TreeSlot, deadline: Deadline) -> int | None:
        if peer not in self._lanes:
            mine = self.tree.mine
            if mine is not None and peer.number == mine.above:
                self._lanes[peer] = (mine.number - 1) % 2
            else:
                for lane in range(2, self.LANES):
                    if self._take_lane(peer, lane, deadline):
                        break
        return self._lanes.get(peer)

    def reader(self, peer: TreeSlot, lane: int, job: LoadJob) -> _core.D2dReader:
        """Straight into tensors that can be given other memory should a transfer have to be abandoned, unless chunks
        are to be verified first; the others are read into landing memory.
        """
        config = self._worker.config
        direct = job.table.replaceable and config.staging == "auto"
        return _core.D2dReader(
            self._context.receiver,
            job.plan,
            peer=peer.owner,
            key_prefix=self._who.d2d_prefix(peer.token, lane),
            stall_s=config.source_stall_s,
            chunks_ahead=config.chunks_ahead,
            addresses=job.chunks.addresses if direct else None,
            owners=job.table.memory() if direct else None,
        )

    def after_reading(self, reader: _core.ChunkReader, *, damaged: bool) -> Sequence[int]:
        assert isinstance(reader, _core.D2dReader)
        if damaged:
            reader.distrust()
        return reader.in_flight
