"""Whether each call of a round ended as it may: right bytes or an allowed error, and in time."""

from __future__ import annotations

import time
from collections.abc import Set
from typing import Any

from chaos.machine_stalls import MachineStalls
from chaos.processes import Node
from chaos.schedule import PUBLISH_DEADLINE_S, Part, Round
from chaos.tally import Tally

__all__ = ["Verdict"]

_Answer = dict[str, Any]

_SPARE_S = 1.0  # "within the deadline plus one second"
_CONNECT_SPARE_S = 4.0  # a loader that cannot connect gives its client a second or two to end
_STARVED_S = 0.3


class Verdict:
    """Of one round.

    Attributes:
        parts: What nodes are in the round.
        frozen_s: How long nodes are stopped by the fault.
        to_die: Nodes that the fault ends.
        was_abandoned: Whether a transfer between devices may have been.
    """

    def __init__(self, spec: Round, tally: Tally, stalls: MachineStalls) -> None:
        self._spec, self._tally, self._stalls = spec, tally, stalls
        self.parts: dict[Node, Part] = {}
        self.frozen_s: dict[Node, float] = {}
        self.to_die: set[Node] = set()
        self.was_abandoned = False

    def expect_deaths(self, publisher: Node, reader: Node) -> None:
        """Know whom this round's fault ends."""
        who, _, how = self._spec.kind.partition(".")
        if how in ("sigkill", "sigterm") and who in ("publisher", "reader"):
            self.to_die.add(publisher if who == "publisher" else reader)

    def connect_bound_s(self, node: Node) -> float:
        """Within which a loader has connected, or given up."""
        return float(self.parts[node].settings["connect_timeout_s"]) + _CONNECT_SPARE_S

    def connection(self, node: Node, answer: _Answer) -> None:
        if "unexpected" in answer:
            self._tally.surprise(self._spec, f"{node.name}: {answer['unexpected']}")
        elif "seconds" in answer and self._late_s(node, answer, self.connect_bound_s(node)) > 0:
            self._tally.stall(self._spec, f"{node.name} took {answer['seconds']:.2f} s to connect")

    def publish(self, node: Node, answer: _Answer, allowed: Set[str] | None) -> bool:
        """Judge a publish; whether there is anything to be loaded.

        Args:
            node: That published.
            answer: Of it.
            allowed: Codes that it may end with; None for all.
        """
        if "dead" in answer or "silent" in answer:
            self._death(node, answer)
        elif "unexpected" in answer:
            self._tally.surprise(self._spec, f"publish by {node.name}: {answer['unexpected']}\n{node.tail()}")
        elif answer.get("connecting"):
            self.connection(node, answer)
        else:
            if self._late_s(node, answer, PUBLISH_DEADLINE_S) > _SPARE_S:
                self._tally.stall(self._spec, f"publish by {node.name} took {answer['seconds']:.2f} s: {answer}")
            self._error(f"publish by {node.name}", node, answer, allowed)
        return "generation" in answer

    def load(self, node: Node, answer: _Answer, allowed: Set[str], *, must_fail: bool) -> None:
        """Judge a load.

        Args:
            node: That loaded.
            answer: Of it.
            allowed: Codes that it may end with.
            must_fail: Whether there was nothing to be found.
        """
        spec, tally, what = self._spec, self._tally, f"load by {node.name}"
        if "dead" in answer or "silent" in answer:
            tally.loaded(spec, "ended with its process", 0, 0)
            self._death(node, answer)
            return
        if "unexpected" in answer:
            tally.surprise(spec, f"{what}: {answer['unexpected']}\n{node.tail()}")
            return
        if answer.get("connecting"):
            tally.loaded(spec, f"{answer['error']} connecting", 0, 0)
            self.connection(node, answer)
            return
        late_s = self._late_s(node, answer, spec.deadline_s)
        if late_s > _SPARE_S:
            tally.stall(spec, f"{what} took {answer['seconds']:.2f} s: {answer}\n{node.tail()}")
        if answer.get("wrong"):
            tally.wrong(spec, answer["wrong"], f"{what}: {answer}\n{node.tail()}")
        if "d2d" in spec.publish_as and (answer.get("retried") or answer.get("memory_written")):
            self.was_abandoned = True
        if "error" in answer:
            tally.loaded(spec, answer["error"], 0, late_s)
            self._error(what, node, answer, allowed)
            return
        tally.loaded(spec, "loaded", 0 if answer["wrong"] else answer["bytes"], late_s)
        if must_fail:
            tally.surprise(spec, f"{what} found what was gone: {answer}")

    def silence(self, silent: Exception) -> None:
        self._tally.stall(self._spec, f"no answer of {silent}")

    def outlives_its_signal(self, silent: Exception) -> None:
        self._tally.stall(self._spec, f"outlives its signal: {silent}")

    def still_there(self, keys: list[str]) -> None:
        self._tally.surprise(self._spec, f"{keys} are still there, long after they have expired")

    def unsettled(self, why: str) -> None:
        self._tally.stall(self._spec, f"before it began, workers were not at one again long after any fault: {why}")

    def recovered(self, seconds: float) -> None:
        self._tally.recovered(self._spec, seconds)

    def lost(self, what: str) -> None:
        self._tally.lose(self._spec, what)

    def _error(self, what: str, node: Node, answer: _Answer, allowed: Set[str] | None) -> None:
        if "error" not in answer or allowed is None or answer["error"] in allowed or self._starved(answer):
            return
        self._tally.surprise(self._spec, f"{what}: {answer}\n{node.tail()}")

    def _death(self, node: Node, answer: _Answer) -> None:
        if "dead" in answer and node not in self.to_die:
            self._tally.surprise(self._spec, f"{node.name} died\n{node.tail()}")

    def _late_s(self, node: Node, answer: _Answer, bound_s: float) -> float:
        """How long after its bound a call came back, without the time in which it, or everybody, stood still."""
        seconds: float = answer["seconds"]
        return seconds - bound_s - self.frozen_s.get(node, 0.0) - self._lag(answer)

    def _starved(self, answer: _Answer) -> bool:
        """Whether the machine stood still for so long that times which suffice otherwise did not."""
        return self._lag(answer) > _STARVED_S

    def _lag(self, answer: _Answer) -> float:
        now = time.monotonic()
        return self._stalls.lag(now - answer["seconds"], now)
