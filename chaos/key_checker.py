"""Whether what processes have stored is gone from the worker when it has to be."""

from __future__ import annotations

import time
from collections.abc import Container

import attrs

import yr_fastload_native as fl
from chaos.processes import Node
from chaos.schedule import DATA_GRACE_S, LEASE_S, PUBLISH_DEADLINE_S, Round
from chaos.tally import Tally
from chaos.workers import Count, Workers

__all__ = ["KeyChecker"]

_MIB = 1 << 20
_ENDS_S = 1.5  # an object that nobody renews disappears within half a second of its end
# The longest that anything lives which nobody renews: chunks of a publisher that was killed before its lease began.
_LIVES_S = PUBLISH_DEADLINE_S + LEASE_S + DATA_GRACE_S + _ENDS_S
_CLEAN_S = 0.7
_REPORTS_S = 25.0  # the worker writes a line every ten
_POOL_SPARE = _MIB  # what it keeps of clients that were killed: 4 KiB each, in no object
_POLL_S = 0.5


@attrs.define
class _Due:
    """Keys that have to be gone some time after everybody has closed."""

    spec: Round
    life: object
    keys: list[str]
    nodes: list[Node]
    after_s: float
    at: float | None = None


class KeyChecker:
    """Looks for keys of past rounds.

    Attributes:
        checked: How many keys were looked for.
    """

    def __init__(self, workers: Workers, tally: Tally) -> None:
        self._workers, self._tally = workers, tally
        self._due: list[_Due] = []
        self.checked = 0

    @property
    def not_due(self) -> int:
        """How many keys are still to be looked for."""
        return sum(len(due.keys) for due in self._due)

    def expect_gone(self, spec: Round, keys: list[str], nodes: list[Node], *, clean: bool) -> None:
        """Have keys gone some time after these nodes have closed: at once, or when leases and data have ended."""
        self._due.append(_Due(spec, self._workers.life, keys, nodes, _CLEAN_S if clean else _LIVES_S))

    def look(self, closing: Container[Node]) -> None:
        """Look for those that are due.

        Args:
            closing: Nodes that have not closed yet.
        """
        now = time.monotonic()
        for due in list(self._due):
            if due.life != self._workers.life:
                self._due.remove(due)  # gone with their worker
            elif due.at is None:
                if not any(node in closing for node in due.nodes):
                    due.at = now + due.after_s
            elif now >= due.at:
                self._due.remove(due)
                self._check(due)

    def _check(self, due: _Due) -> None:
        try:
            there = self._workers.exist(due.keys)
        except fl.FastLoadError as error:
            self._tally.surprise(due.spec, f"could not look at the keys: {error}")
            return
        left = [key for key, is_there in zip(due.keys, there, strict=True) if is_there]
        self.checked += len(due.keys)
        if left:
            self._tally.leak(due.spec, f"{len(left)} of {len(due.keys)} keys are still there, such as {left[:3]}")

    def objects_left(self, spec: Round) -> int:
        """What workers themselves count once nobody publishes anything."""
        seen = {name: len(counts()) for name, counts in self._workers.counts.items()}
        end = time.monotonic() + _REPORTS_S
        return sum(self._left(spec, name, seen[name], end) for name in seen)

    def _is_clean(self, counts: list[Count]) -> bool:
        """Whether the last count has no more than the first; entries without memory may be allowed."""
        entries, used = counts[-1]
        return (entries == 0 or self._workers.keeps_entries) and used <= counts[0][1] + _POOL_SPARE

    def _left(self, spec: Round, name: str, seen: int, end: float) -> int:
        counts: list[Count] = []
        while time.monotonic() < end:
            time.sleep(_POLL_S)
            counts = self._workers.counts[name]()
            if len(counts) > seen and self._is_clean(counts):
                return 0
        if len(counts) <= seen:
            self._tally.surprise(spec, f"{name} does not count its objects any more")
            return 0
        self._tally.leak(spec, f"{name} holds {counts[-1]} objects and bytes, and {counts[0]} when it started")
        return counts[-1][0]
