"""``d2d``: chunks stay in the memory of devices, and readers fetch them from there; by reference, nothing is copied.

Every process that serves a generation, or is about to, holds a numbered place. A reader asks the holder of place
(n - 1) // 2 first, so that a source sends a model about twice however many readers there are, and starts to serve its
own chunks as soon as somebody has taken a place below it: chunk by chunk, verified, while it still reads others.

A source has a few lanes: sets of keys for the same chunks, each for one reader at a time. The holders of the two places
below it have one each; whoever else comes takes one of the others for as long as it reads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import threading
from array import array
from collections.abc import Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue import set_own
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.devices.hetero import hetero
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import FastLoadError, ResourceExhaustedError
from yr_fastload_native.identity import Identity
from yr_fastload_native.transports.jobs import Worker

__all__ = ["PLACES", "Member", "Place"]

_log = logging.getLogger(__name__)

PLACES = 64
_LANES = 4  # of a source: two for the places below it, the others for whoever comes first
_LANE_GRACE_S = 2
_LOOK = 8  # places looked at together: they are taken from the lowest on
_WATCH_S = 0.1
_LEAVE_S = 2.0
_VALUE = re.compile(r"([0-9a-f]{32}) ([ -~]{1,200})\Z")


@attrs.frozen
class Place:
    """A numbered place, and who holds it.

    Attributes:
        token: Part of the keys of its chunks: of this source, in this generation, and of no other. Random, for
            openYuanrong lets everybody who knows such a key read the chunk, whatever the tenant (0.8.1).
        owner: For messages: host and process.
    """

    number: int
    token: str
    owner: str

    @property
    def value(self) -> bytes:
        return f"{self.token} {self.owner}".encode()

    @classmethod
    def parse(cls, number: int, value: bytes | None) -> Place | None:
        """The place that a stored value tells of; None if it is free or holds something else."""
        found = _VALUE.match(value.decode("ascii", errors="replace")) if value is not None else None
        return cls(number, found[1], found[2]) if found else None


def _ancestors(number: int) -> list[int]:
    above = []
    while number > 0:
        number = (number - 1) // 2
        above.append(number)
    return above


class Member:
    """This process's part in serving one generation device to device: a place, and a source."""

    def __init__(self, worker: Worker, who: Identity, generation: str, context: DeviceContext) -> None:
        self._worker = worker
        self._who = who
        self._generation = generation
        self._context = hetero(context, op="device")
        self._token = secrets.token_hex(16)
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._source: _core.D2dSource | None = None
        self._done = threading.Event()
        self._watcher: threading.Thread | None = None
        self._lanes: dict[Place, int] = {}
        self._taken: list[str] = []
        self.place: Place | None = None
        self.peers: list[Place] = []
        self._free: list[int] = []

    # -- places ---------------------------------------------------------------------------------------------------

    def key(self, number: int) -> str:
        return f"{self._who.place_prefix(self._generation)}{number}"

    @property
    def held(self) -> tuple[str, bytes]:
        """Key and value of the place."""
        return ("", b"") if self.place is None else (self.key(self.place.number), self.place.value)

    def first_keys(self) -> list[str]:
        """Of the places to look at first."""
        return [self.key(number) for number in range(_LOOK)]

    def look_around(self, values: Sequence[bytes | None], deadline: Deadline) -> None:
        """Learn who holds which place: all up to the first free ones.

        Args:
            values: What the store has for `first_keys`.
            deadline: Of this call.
        """
        seen = list(values)
        while len(seen) < PLACES and None not in seen[-_LOOK:]:
            keys = [self.key(number) for number in range(len(seen), len(seen) + _LOOK)]
            seen += self._worker.catalogue.store.get_many(keys, deadline_s=deadline.left())
        held = [Place.parse(number, value) for number, value in enumerate(seen)]
        self.peers = [place for place in held if place is not None]
        self._free = [number for number, value in enumerate(seen) if value is None] + list(range(len(seen), PLACES))

    def claim_first(self) -> None:
        """The first place of a new generation; its key is set when that is announced."""
        self.place = self._place(0)

    def take_place(self, deadline: Deadline) -> None:
        """Take the lowest free place.

        Raises:
            ResourceExhaustedError: There is none; reading works all the same.
        """
        store = self._worker.catalogue.store
        ttl_s = self._worker.config.lease_s + int(deadline.left())
        for number in self._free:
            place, key = self._place(number), self.key(number)
            if set_own(store, {key: place.value}, witness=key, ttl_s=ttl_s, deadline=deadline):
                self.place = place
                return
            # Somebody was faster, and is a peer.
            other = Place.parse(number, store.get(key, deadline_s=deadline.left()))
            if other is not None:
                self.peers.append(other)
        raise ResourceExhaustedError(f"all {PLACES} places of sources are taken", op="load")

    def _place(self, number: int) -> Place:
        return Place(number, self._token, self._owner)

    def peers_in_order(self) -> list[Place]:
        """Whom to ask: the holder of the place above and those above it, then everybody else."""
        if self.place is None:
            return list(self.peers)
        above = _ancestors(self.place.number)
        by_number = {peer.number: peer for peer in self.peers}
        first = [by_number[number] for number in above if number in by_number]
        return first + [peer for peer in self.peers if peer not in first]

    # -- serving --------------------------------------------------------------------------------------------------

    def serve(self, plan: _core.Plan, addresses: array[int], owners: object) -> _core.D2dSource:
        """Make the source; it serves what is offered to it once `start` is called.

        Args:
            plan: Of the generation.
            addresses: uint64[tensors of the plan].
            owners: What keeps the tensors' memory; held until nobody can read from it any more.
        """
        worker = self._worker
        self._source = _core.D2dSource(
            worker.connection,
            device=self._context.device,
            lanes=[self._who.d2d_prefix(self._token, lane) for lane in range(_LANES)],
            plan=plan,
            addresses=addresses,
            owners=owners,
        )
        return self._source

    @property
    def source(self) -> _core.D2dSource:
        assert self._source is not None
        return self._source

    def start_when_asked(self) -> None:
        """Start the source as soon as somebody takes a place below this one."""
        if self.place is None:
            return
        below = [self.key(number) for number in (2 * self.place.number + 1, 2 * self.place.number + 2)]
        self._watcher = threading.Thread(target=self._watch, args=(below,), name="yr-fastload-places", daemon=True)
        self._watcher.start()

    def _watch(self, below: list[str]) -> None:
        source = self.source
        while not self._done.wait(_WATCH_S):
            try:
                values = self._worker.catalogue.store.get_many(below, deadline_s=_LEAVE_S)
            except FastLoadError as error:
                _log.debug("could not look for readers below: %s", str(error))
                continue
            if any(value is not None for value in values) and not self._done.is_set():
                source.start()
                return

    def start(self) -> None:
        """Serve all that was and will be offered, asked or not."""
        self._stop_watching()
        self.source.start()

    def _stop_watching(self) -> None:
        """It may be in a call that is late; then it ends with that, and has nothing more to do."""
        self._done.set()  # for good: who starts again does so unasked
        self._watcher = None

    def leave(self, deadline: Deadline) -> None:
        """Withdraw. Idempotent, never raises; the place ends with its lease where it cannot be given back.

        Args:
            deadline: Of the call that this ends, kept within its moment to spare: what is not done by then goes on.
        """
        self._stop_watching()
        self.free_lanes()
        if self.place is not None:
            with contextlib.suppress(FastLoadError):
                self._worker.catalogue.store.erase([self.key(self.place.number)], deadline_s=deadline.spare(_LEAVE_S))
            self.place = None
        self.stop_serving(deadline)

    def stop_serving(self, deadline: Deadline) -> None:
        """Take back what is served, and let go of the tensors; the place stays. As `leave` keeps the deadline."""
        self._stop_watching()
        if self._source is not None:
            self._source.withdraw(deadline_s=deadline.spare(_LEAVE_S))
            self._source = None

    # -- reading --------------------------------------------------------------------------------------------------

    def lane(self, peer: Place, deadline: Deadline) -> int | None:
        """The lane to read from a peer by, this process's own until `free_lanes`; None while all of them are taken."""
        if peer not in self._lanes:
            if self.place is not None and peer.number == (self.place.number - 1) // 2:
                self._lanes[peer] = (self.place.number - 1) % 2
            else:
                self._take_lane(peer, deadline)
        return self._lanes.get(peer)

    def _take_lane(self, peer: Place, deadline: Deadline) -> None:
        store = self._worker.catalogue.store
        ttl_s = int(deadline.left()) + _LANE_GRACE_S
        for lane in range(2, _LANES):
            key = self._who.lane_key(peer.token, lane)
            if store.set_if_absent(key, self._owner.encode(), ttl_s=ttl_s, deadline_s=deadline.left()):
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

    def greet(self, deadline: Deadline) -> None:
        """Have the way to the first peer set up in the background."""
        peers = self.peers_in_order()
        lane = self.lane(peers[0], deadline) if peers else None
        if lane is not None:
            self._context.receiver.greet(self._who.d2d_prefix(peers[0].token, lane))

    def reader(
        self, peer: Place, lane: int, plan: _core.Plan, addresses: array[int] | None, owners: object
    ) -> _core.D2dReader:
        """What reads from a peer.

        Args:
            peer: One of `peers_in_order`.
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
