"""What past rounds have left in processes, which are looked at between rounds, and in the worker (`key_checker`)."""

from __future__ import annotations

import signal
import time
from typing import Any

import attrs

from chaos.key_checker import KeyChecker
from chaos.machine_stalls import MachineStalls
from chaos.processes import DeadError, Node, Nodes, SilentError
from chaos.schedule import Round
from chaos.tally import Tally
from chaos.workers import Workers

__all__ = ["LeakChecker"]

_Held = dict[str, Any]

_LOOK_S = 0.5
_CLOSE_S = 15.0  # a loader whose worker is frozen, or whose source is
_SILENT_S = 20.0
_LET_GO_S = 60.0  # openYuanrong's threads that wait for a peer or a worker that is gone
# Connections left behind go after five minutes. Until then their threads may take a core: such a process is stopped.
_QUIET_S = 305.0
_MOST_PARKED = 24
# openYuanrong's pools keep threads for as many calls as there once were at a time.
_SPARE = {"threads": 24, "descriptors": 3, "mappings": 0, "private": 64 << 20}


@attrs.define(eq=False)
class _Resting:
    """A node that has closed everything, until nothing is left in it."""

    node: Node
    spec: Round
    since: float
    life: object  # of the worker whose client it was
    next_look: float = 0.0
    parked_at: float | None = None
    over: dict[str, tuple[int, int]] = attrs.Factory(dict)


class LeakChecker:
    """Lends nodes to rounds, and looks at them and at the worker afterwards."""

    def __init__(self, nodes: Nodes, workers: Workers, tally: Tally, stalls: MachineStalls) -> None:
        self._nodes, self._workers = nodes, workers
        self.tally, self.stalls = tally, stalls
        self._keys = KeyChecker(workers, tally)
        self._closing: dict[Node, tuple[Round, float, object]] = {}
        self._resting: list[_Resting] = []
        self._most: dict[str, int] = {}
        self._connection: dict[str, int] = {}
        self._connections_ended = 0
        self._connections_waiting = 0
        self._goodbyes_waiting = 0

    def calibrate(self, closed: list[_Held], opened: list[_Held]) -> None:
        """Learn from rounds without a fault what a process holds with everything closed, and what one connection
        takes.
        """
        self._most = {key: max(each[key] for each in closed) + spare for key, spare in _SPARE.items()}
        self._connection = {
            key: max(0, max(each[key] for each in opened) - min(each[key] for each in closed)) for key in _SPARE
        }

    def idle(self, where: str = "", framework: str = "") -> Node:
        """A node there that has closed everything, and has nothing left; a new one if there is none."""
        besides = {*self._closing, *(resting.node for resting in self._resting)}
        return self._nodes.idle(besides=besides, where=where, framework=framework)

    def forget(self, where: str) -> None:
        """Know that no process of a host is left."""
        for node in [node for node in self._closing if node.where == where]:
            del self._closing[node]
        self._resting = [resting for resting in self._resting if resting.node.where != where]
        self._nodes.lose(where)

    def close(self, spec: Round, node: Node) -> None:
        """Have it close everything; `look` waits for the end."""
        node.start("close")
        self._closing[node] = spec, time.monotonic(), self._workers.life_of(node)

    def expect_gone(self, spec: Round, keys: list[str], nodes: list[Node], *, clean: bool) -> None:
        """Have keys gone after these nodes have closed: at once if ``clean``, or when leases and data have ended."""
        self._keys.expect_gone(spec, keys, nodes, clean=clean)

    def judge_written(self, spec: Round, node: Node, answer: _Held) -> None:
        """What was written to destinations of its last loads after these had ended."""
        for number, count in answer.get("written", {}).items():
            if count:
                self.tally.wrong(spec, count, f"{node.name}: written after its load of round {number} had ended")

    def look(self, *, wait: bool = False) -> None:
        """Check what is due. With ``wait`` for all that will be."""
        for node in list(self._closing):
            self._finish_close(node, wait)
        self._look_at_resting()
        self._keys.look(self._closing)

    # -- nodes that are closing -----------------------------------------------------------------------------------

    def _finish_close(self, node: Node, wait: bool) -> None:
        spec, since, life = self._closing[node]
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
        if answer["seconds"] - self.stalls.lag(since, time.monotonic()) > _CLOSE_S:
            self.tally.stall(spec, f"{node.name} took {answer['seconds']:.1f} s to close\n{node.tail()}")
        self._resting.append(_Resting(node, spec, time.monotonic(), life))

    # -- nodes that have closed -----------------------------------------------------------------------------------

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
        self.judge_written(resting.spec, node, held)
        left = held["connections_left_behind"]
        self._connections_ended += max(0, node.left_behind - left)
        node.left_behind = left
        resting.over = self._over(held, gone=self._workers.life_of(node) != resting.life)
        if not left and not resting.over and held["threads_left_behind"]:
            self._goodbyes_waiting += held["threads_left_behind"]
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

    def _leak(self, resting: _Resting, held: _Held) -> None:
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
            self._connections_waiting += resting.node.left_behind
            resting.node.end()

    def _over(self, held: _Held, *, gone: bool) -> dict[str, tuple[int, int]]:
        """What it holds beyond the most of a process that has closed everything, and of its connections left behind.

        Where its worker has ``gone``, a client of openYuanrong (0.8.1) may wait ten minutes for an answer to its
        goodbye.
        """
        left = held["connections_left_behind"]
        if gone:
            left = max(left, held["threads_left_behind"])
        allowed = {key: most + left * self._connection[key] for key, most in self._most.items()}
        over = {key: (held[key], most) for key, most in allowed.items() if held[key] > most}
        # A connection is left behind because its thread is in a call of openYuanrong that does not end.
        if held["threads_left_behind"] > left:
            over["threads_left_behind"] = (held["threads_left_behind"], left)
        return over

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(self, spec: Round, patience_s: float) -> dict[str, Any]:
        """Wait for what is to end soon. Of connections that were left behind a short while ago it sees to it that they
        hold no more than connections do.
        """
        self.look(wait=True)
        end = time.monotonic() + patience_s
        while (self._keys.not_due or any(r.parked_at is None for r in self._resting)) and time.monotonic() < end:
            time.sleep(_LOOK_S)
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
            time.sleep(_LOOK_S)
        for resting in list(self._resting):
            self._leak(resting, {})
        return {
            "objects_left": self._keys.objects_left(spec),
            "keys_checked": self._keys.checked,
            "keys_not_due": self._keys.not_due,
            "connections_left_behind": {"ended": self._connections_ended, "waiting": self._connections_waiting},
            "goodbyes_waiting": self._goodbyes_waiting,
        }
