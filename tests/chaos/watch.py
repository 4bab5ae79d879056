"""Who looks for what is left: keys in the worker; threads, descriptors, mappings and memory of nodes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import attrs
from herd import DeadError, Herd, Node, SilentError, Worker, Workers
from pulse import Pulse
from schedule import DATA_GRACE_S, LEASE_S, PUBLISH_DEADLINE_S, Round
from tally import Tally

import yr_fastload_native as fl
from yr_fastload_native.identity import Identity
from yr_fastload_native.transports.d2d.tree import SLOTS

_MIB = 1 << 20
_LANES = 4
_ENDS_S = 1.5  # an object that nobody renews disappears within half a second of its end
# The longest that anything lives which nobody renews: chunks of a publisher that was killed before its lease began.
_LIVES_S = PUBLISH_DEADLINE_S + LEASE_S + DATA_GRACE_S + _ENDS_S
_CLEAN_S = 0.7
_LOOK_S = 0.5
_CLOSE_S = 15.0  # a loader whose worker is frozen, or whose source is
_SILENT_S = 20.0
_REPORTS_S = 25.0  # the worker writes a line every ten
_LET_GO_S = 60.0  # openYuanrong's threads that wait for a peer or a worker that is gone
# Connections left behind go after five minutes. Until then their threads may take a core: such a process is stopped.
_QUIET_S = 305.0
_MOST_PARKED = 24
_POOL_SPARE = _MIB  # what it keeps of clients that were killed: 4 KiB each, in no object
# openYuanrong's pools keep threads for as many calls as there once were at a time.
_SPARE = {"threads": 24, "descriptors": 3, "mappings": 0, "private": 64 * _MIB}


class Ledger:
    """The keys of a round's identity, from what its processes wrote down before they stored anything."""

    def __init__(self, path: Path, identity: dict) -> None:
        self._path = path
        self._who = Identity.of(identity, op="chaos")

    def _facts(self) -> list[dict]:
        if not self._path.exists():
            return []
        facts = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [fact for fact in facts if fact["identity"] == self._who.digest]

    def _generations(self) -> dict[str, int]:
        return {fact["generation"]: fact["chunks"] for fact in self._facts() if "generation" in fact}

    def manifests(self) -> list[str]:
        return [self._who.manifest_key(name) for name in self._generations()]

    def digests(self) -> list[str]:
        return [self._who.digests_key(name) for name in self._generations()]

    def chunks(self) -> list[str]:
        return [
            f"{prefix(name)}{index}"
            for name, count in self._generations().items()
            for prefix in (self._who.chunk_prefix, self._who.staged_prefix)
            for index in range(count)
        ]

    def keys(self) -> list[str]:
        """All that may be there: head, manifests, digests, chunks, slots, places and lanes."""
        keys = [self._who.head_key, *self.manifests(), *self.digests(), *self.chunks()]
        for name in self._generations():
            keys += self._who.slot_keys(name)
            keys += [f"{self._who.place_prefix(name)}{number}" for number in range(SLOTS)]
        tokens = [fact["token"] for fact in self._facts() if "token" in fact]
        return keys + [self._who.lane_key(token, lane) for token in tokens for lane in range(_LANES)]


@attrs.define
class _Due:
    """Keys that have to be gone some time after everybody has closed."""

    spec: Round
    worker: Worker
    incarnation: int
    keys: list[str]
    nodes: list[Node]
    after_s: float
    at: float | None = None


@attrs.define
class _Resting:
    node: Node
    spec: Round
    since: float
    worker: tuple[Worker, int]  # whose client it was, and that one's incarnation
    next_look: float = 0.0
    parked_at: float | None = None
    over: dict = attrs.Factory(dict)


class Watch:
    """Between rounds it looks at what past ones have left."""

    def __init__(self, herd: Herd, workers: Workers, tally: Tally, pulse: Pulse) -> None:
        self._herd, self._workers = herd, workers
        self.tally, self.pulse = tally, pulse
        self._due: list[_Due] = []
        self._closing: dict[Node, tuple[Round, float, tuple[Worker, int]]] = {}
        self._resting: list[_Resting] = []
        self._most: dict[str, int] = {}
        self._connection: dict[str, int] = {}
        self.keys_checked = 0
        self.connections_ended = 0
        self.connections_waiting = 0
        self.goodbyes_waiting = 0

    # -- nodes ----------------------------------------------------------------------------------------------------

    def calibrate(self, closed: list[dict], opened: list[dict]) -> None:
        """Learn from rounds without a fault what a process holds with everything closed, and what one connection
        takes.
        """
        self._most = {key: max(each[key] for each in closed) + spare for key, spare in _SPARE.items()}
        self._connection = {
            key: max(0, max(each[key] for each in opened) - min(each[key] for each in closed)) for key in _SPARE
        }

    def idle(self) -> Node:
        """A node that has closed everything, and has nothing left; a new one if there is none."""
        busy = {*self._closing, *(resting.node for resting in self._resting)}
        for node in self._herd.nodes:
            if not node.gone and not node.busy and node not in busy:
                return node
        return self._herd.fork()

    def close(self, spec: Round, node: Node) -> None:
        """Have it close everything; `look` waits for the end."""
        node.start("close")
        self._closing[node] = spec, time.monotonic(), (self._workers.current, self._workers.current.incarnation)

    def look(self, *, wait: bool = False) -> None:
        """Check what is due. With ``wait`` for all that will be."""
        for node in list(self._closing):
            self._finish_close(node, wait)
        self._look_at_resting()
        self._look_at_keys()

    def _finish_close(self, node: Node, wait: bool) -> None:
        spec, since, worker = self._closing[node]
        try:
            answer = node.try_finish(_SILENT_S if wait else 0.0)
        except DeadError:
            del self._closing[node]
            self.tally.surprise(spec, f"{node.name} died while it closed\n{node.tail()}")
            return
        if answer is None:
            if time.monotonic() - since > _SILENT_S:
                del self._closing[node]
                self.tally.stall(spec, f"{node.name} did not close\n{node.tail(stacks=True)}")
                node.end()
            return
        del self._closing[node]
        if "unexpected" in answer:
            self.tally.surprise(spec, answer["unexpected"])
        elif answer["seconds"] - self.pulse.lag(since, time.monotonic()) > _CLOSE_S:
            self.tally.stall(spec, f"{node.name} took {answer['seconds']:.1f} s to close\n{node.tail()}")
        self._resting.append(_Resting(node, spec, time.monotonic(), worker))

    def _look_at_resting(self) -> None:
        now = time.monotonic()
        for resting in list(self._resting):
            if resting.parked_at is not None and now - resting.parked_at >= _QUIET_S:
                self._unpark(resting)
            if resting.parked_at is None and now >= resting.next_look:
                resting.next_look = now + _LOOK_S
                self._look_at(resting, park=True)
        parked = [resting for resting in self._resting if resting.parked_at is not None]
        for resting in parked[: max(0, len(parked) - _MOST_PARKED)]:
            self._unpark(resting)
            self._look_at(resting, park=False)
            self._let_go(resting)

    def _unpark(self, resting: _Resting) -> None:
        resting.node.signal(signal.SIGCONT)
        resting.parked_at, resting.since, resting.next_look = None, time.monotonic(), 0.0

    def _look_at(self, resting: _Resting, *, park: bool) -> None:
        node = resting.node
        try:
            held = node.call("measure", _SILENT_S)
        except (DeadError, SilentError) as error:
            self.tally.surprise(resting.spec, f"{type(error).__name__}: {error}\n{node.tail()}")
            self._resting.remove(resting)
            return
        if "unexpected" in held:
            self.tally.surprise(resting.spec, f"{node.name}: {held['unexpected']}\n{node.tail()}")
            self._resting.remove(resting)
            return
        self.judge_written(resting.spec, node, held)
        left = held["connections_left_behind"]
        self.connections_ended += max(0, node.left_behind - left)
        node.left_behind = left
        resting.over = self._over(held, resting.worker)
        if not left and not resting.over and held["threads_left_behind"]:
            self.goodbyes_waiting += held["threads_left_behind"]
            self._resting.remove(resting)
            node.end()
        elif left and park:
            node.signal(signal.SIGSTOP)
            resting.parked_at = time.monotonic()
        elif not left and not resting.over:
            self._resting.remove(resting)
        elif resting.over and self._is_waited_for(resting):
            resting.since = time.monotonic()
        elif resting.over and time.monotonic() - resting.since > _LET_GO_S:
            self._leak(resting, held)

    def _is_waited_for(self, resting: _Resting) -> bool:
        """Whether somebody of its round left a connection behind: what it was sending to that one ends with it.

        A stream with a send in it is not destroyed (`aclrtDestroyStream` waits), nor is the client that it belongs to.
        Such readers are stopped here most of the time, and the source has a minute once they have gone.
        """
        return any(other.spec is resting.spec and other.node.left_behind for other in self._resting)

    def _leak(self, resting: _Resting, held: dict) -> None:
        node = resting.node
        self.tally.leak(
            resting.spec, f"{node.name} holds {resting.over}: {held}\n{node.tail()}\n{node.native_stacks()}"
        )
        self._resting.remove(resting)
        node.end()

    def _let_go(self, resting: _Resting) -> None:
        """End a process whose connections still have a while to go."""
        if resting in self._resting:
            self._resting.remove(resting)
            self.connections_waiting += resting.node.left_behind
            resting.node.end()

    def judge_written(self, spec: Round, node: Node, answer: dict) -> None:
        """What was written to destinations of its last loads after these had ended."""
        for number, count in answer.get("written", {}).items():
            if count:
                self.tally.wrong(spec, count, f"{node.name}: written after its load of round {number} had ended")

    def _over(self, held: dict, worker: tuple[Worker, int]) -> dict:
        """What it holds beyond the most of a process that has closed everything, and of its connections left behind.

        Where its worker has gone, a client of openYuanrong (0.8.1) may wait ten minutes for an answer to its goodbye.
        """
        left = held["connections_left_behind"]
        if worker != (self._workers.current, self._workers.current.incarnation):
            left = max(left, held["threads_left_behind"])
        allowed = {key: most + left * self._connection[key] for key, most in self._most.items()}
        over = {key: (held[key], most) for key, most in allowed.items() if held[key] > most}
        # A connection is left behind because its thread is in a call of openYuanrong that does not end.
        if held["threads_left_behind"] > left:
            over["threads_left_behind"] = (held["threads_left_behind"], left)
        return over

    # -- keys -----------------------------------------------------------------------------------------------------

    def expect_gone(self, spec: Round, keys: list[str], nodes: list[Node], *, clean: bool) -> None:
        worker = self._workers.current
        self._due.append(_Due(spec, worker, worker.incarnation, keys, nodes, _CLEAN_S if clean else _LIVES_S))

    def _look_at_keys(self) -> None:
        now = time.monotonic()
        for due in list(self._due):
            if due.worker is not self._workers.current or due.incarnation != due.worker.incarnation:
                self._due.remove(due)  # gone with their worker
            elif due.at is None:
                if not any(node in self._closing for node in due.nodes):
                    due.at = now + due.after_s
            elif now >= due.at:
                self._due.remove(due)
                self._check(due)

    def _check(self, due: _Due) -> None:
        try:
            there = due.worker.store.exist(due.keys, deadline_s=5)
        except fl.FastLoadError as error:
            self.tally.surprise(due.spec, f"could not look at the keys: {error}")
            return
        left = [key for key, is_there in zip(due.keys, there, strict=True) if is_there]
        self.keys_checked += len(due.keys)
        if left:
            self.tally.leak(due.spec, f"{len(left)} of {len(due.keys)} keys are still there, such as {left[:3]}")

    def _objects_left(self, spec: Round) -> int:
        """What the worker itself counts once nobody publishes anything."""
        worker = self._workers.current
        seen, end = len(worker.counts()), time.monotonic() + _REPORTS_S
        while time.monotonic() < end:
            time.sleep(0.5)
            counts = worker.counts()
            if len(counts) > seen and counts[-1][0] == 0 and counts[-1][1] <= counts[0][1] + _POOL_SPARE:
                return 0
        if len(counts) == seen:
            self.tally.surprise(spec, "the worker does not count its objects any more")
            return 0
        self.tally.leak(spec, f"the worker holds {counts[-1]} objects and bytes, and {counts[0]} when it started")
        return counts[-1][0]

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(self, spec: Round, patience_s: float) -> dict:
        """Wait for what is to end soon. Of connections that were left behind a short while ago it sees to it that they
        hold no more than connections do.
        """
        self.look(wait=True)
        end = time.monotonic() + patience_s
        while (self._due or any(r.parked_at is None for r in self._resting)) and time.monotonic() < end:
            time.sleep(0.5)
            self.look()
        for resting in list(self._resting):
            if resting.parked_at is not None:
                self._unpark(resting)
        end = time.monotonic() + _LET_GO_S
        while self._resting and time.monotonic() < end:
            for resting in list(self._resting):
                self._look_at(resting, park=False)
                if not resting.over:
                    self._let_go(resting)
            time.sleep(0.5)
        for resting in list(self._resting):
            self._leak(resting, {})
        return {
            "objects_left": self._objects_left(spec),
            "keys_checked": self.keys_checked,
            "keys_not_due": sum(len(due.keys) for due in self._due),
            "connections_left_behind": {"ended": self.connections_ended, "waiting": self.connections_waiting},
            "goodbyes_waiting": self.goodbyes_waiting,
        }
