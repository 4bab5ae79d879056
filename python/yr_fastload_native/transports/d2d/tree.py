"""Who serves a generation to whom: a binary tree of numbered slots, one for each process that serves, or is about to.

A reader asks the holder of slot (n - 1) // 2 first, so that a source sends a model about twice however many readers
there are. It takes the lowest free slot; where that one is below a process of another host, it prefers one below its
own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Sequence

import attrs

from yr_fastload_native.catalogue.catalogue import HeldKey, set_own
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, ResourceExhaustedError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.settings.secret import Secret
from yr_fastload_native.transports.jobs import StoreSession

__all__ = ["SLOTS", "Tree", "TreeSlot", "near_first"]

SLOTS = 64
_LOOK = 8  # slots looked at together: they are taken from the lowest on
_VALUE = re.compile(r"([0-9a-f]{32}) ([ -~]{1,200})\Z")


@attrs.frozen
class TreeSlot:
    """A numbered slot, and who holds it.

    Attributes:
        token: Part of the keys of its chunks: of this source, in this generation, and of no other. Random, for
            openYuanrong lets everybody who knows such a key read the chunk, whatever the tenant (0.8.1).
        owner: For messages: host and process.
        about: What else it says to its readers; empty as long as there is nothing to read.
    """

    number: int
    token: str
    owner: str
    about: bytes = b""

    @property
    def value(self) -> bytes:
        head = f"{self.token} {self.owner}".encode()
        return head + b"\n" + self.about if self.about else head

    @property
    def above(self) -> int:
        """Number of the slot that is asked first; -1 above the first one."""
        return (self.number - 1) // 2

    @property
    def below(self) -> tuple[int, int]:
        """Numbers of the slots that ask this one first."""
        return 2 * self.number + 1, 2 * self.number + 2

    @property
    def host(self) -> str:
        return self.owner.rpartition(":")[0]

    @classmethod
    def parse(cls, number: int, value: bytes | None) -> TreeSlot | None:
        """The slot that a stored value tells of; None if it is free or holds something else."""
        head, _, about = (value or b"").partition(b"\n")
        found = _VALUE.match(head.decode("ascii", errors="replace"))
        return cls(number, found[1], found[2], about) if found else None


def _ancestors(number: int) -> list[int]:
    above = []
    while number > 0:
        number = (number - 1) // 2
        above.append(number)
    return above


def near_first(free: Sequence[int], host: str, peers: Sequence[TreeSlot]) -> list[int]:
    """Free slots in the order in which to try them.

    Args:
        free: Their numbers, ascending.
        host: Of whoever takes one.
        peers: Who holds the others.
    """
    hosts = {peer.number: peer.host for peer in peers}
    above = {number: hosts.get((number - 1) // 2) for number in free}
    if not free or above[free[0]] in (None, host):
        return list(free)
    return sorted(free, key=lambda number: above[number] != host)


class Tree:
    """The slots of one generation, as far as this process has looked.

    Attributes:
        mine: The slot that this process holds.
        peers: Those of others.
        token: Of this process's chunks.
        owner: What this process calls itself.
    """

    def __init__(self, worker: StoreSession, who: Identity, generation: str) -> None:
        self._store = worker.catalogue.store
        self._lease_s = worker.config.lease_s
        self._prefix = who.place_prefix(generation)
        self.token = secrets.token_hex(16)
        sys.audit("yr_fastload_native.serve", who.digest, Secret(self.token))
        self.owner = f"{socket.gethostname()}:{os.getpid()}"
        self._about = b""
        self.mine: TreeSlot | None = None
        self.peers: list[TreeSlot] = []
        self._free: list[int] = []

    def key(self, number: int) -> str:
        return f"{self._prefix}{number}"

    @property
    def held(self) -> HeldKey | None:
        """Key and value of this process's slot."""
        return None if self.mine is None else HeldKey(self.key(self.mine.number), self.mine.value)

    def first_keys(self) -> list[str]:
        """Of the slots to look at first."""
        return [self.key(number) for number in range(_LOOK)]

    def look_around(self, values: Sequence[bytes | None], deadline: Deadline) -> None:
        """Learn who holds which slot.

        Args:
            values: Of `first_keys`.
            deadline: Of this call.
        """
        seen = list(values)
        while len(seen) < SLOTS and None not in seen[-_LOOK:]:
            keys = [self.key(number) for number in range(len(seen), len(seen) + _LOOK)]
            seen += self._store.get_many(keys, deadline_s=deadline.left())
        held = [TreeSlot.parse(number, value) for number, value in enumerate(seen)]
        self.peers = [slot for slot in held if slot is not None]
        self._free = [number for number, value in enumerate(seen) if value is None] + list(range(len(seen), SLOTS))

    def claim_first(self) -> None:
        """The first slot of a new generation; its key is set when that is announced."""
        self.mine = self._slot(0)

    def take_slot(self, deadline: Deadline) -> None:
        """Take a free slot.

        Raises:
            ResourceExhaustedError: There is none; reading works all the same.
        """
        ttl_s = self._lease_s + int(deadline.left())
        for number in near_first(self._free, self._slot(0).host, self.peers):
            slot, key = self._slot(number), self.key(number)
            if set_own(self._store, {key: slot.value}, witness=key, ttl_s=ttl_s, deadline=deadline):
                self.mine = slot
                return
            # Somebody was faster, and is a peer.
            other = TreeSlot.parse(number, self._store.get(key, deadline_s=deadline.left()))
            if other is not None:
                self.peers.append(other)
        raise ResourceExhaustedError(f"all {SLOTS} slots of sources are taken", op="load")

    def _slot(self, number: int) -> TreeSlot:
        return TreeSlot(number, self.token, self.owner, self._about)

    def tell(self, about: bytes, deadline: Deadline) -> None:
        """Say this to readers, in the slot that this process holds or is about to take.

        Raises:
            FastLoadError: The worker does not answer.
        """
        self._about = about
        if self.mine is not None:
            self.mine = self._slot(self.mine.number)
            ttl_s = self._lease_s + int(deadline.left())
            self._store.set(self.key(self.mine.number), self.mine.value, ttl_s=ttl_s, deadline_s=deadline.left())

    def says_still(self, peer: TreeSlot, deadline: Deadline) -> bool:
        """Whether a peer says what it said, and has not left.

        Raises:
            FastLoadError: The worker does not answer.
        """
        return self._store.get(self.key(peer.number), deadline_s=deadline.left()) == peer.value

    def peers_in_order(self) -> list[TreeSlot]:
        """Whom to ask: the holder of the slot above and those above it, then everybody else."""
        if self.mine is None:
            return list(self.peers)
        by_number = {peer.number: peer for peer in self.peers}
        first = [by_number[number] for number in _ancestors(self.mine.number) if number in by_number]
        return first + [peer for peer in self.peers if peer not in first]

    def is_asked(self, deadline_s: float) -> bool:
        """Whether somebody holds a slot below this process's.

        Raises:
            FastLoadError: The worker does not answer.
        """
        mine = self.mine  # which another thread may give back
        if mine is None:
            return False
        values = self._store.get_many([self.key(number) for number in mine.below], deadline_s=deadline_s)
        return any(value is not None for value in values)

    def give_back(self, deadline_s: float) -> None:
        """Free the slot. Never raises: where it cannot, the slot ends with its lease."""
        if self.mine is not None:
            with contextlib.suppress(FastLoadError):
                self._store.erase([self.key(self.mine.number)], deadline_s=deadline_s)
            self.mine = None
