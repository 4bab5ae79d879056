"""A round on several hosts."""

from __future__ import annotations

import time

from chaos.faults.fault import Fault
from chaos.hosts.bed import NODE_DEAD_TIMEOUT_S
from chaos.hosts.cluster import Cluster
from chaos.processes import Node
from chaos.scenario import Scenario
from chaos.schedule import Part

__all__ = ["UNHURRIED", "HostScenario"]

_RECOVERY_S = 2 * NODE_DEAD_TIMEOUT_S + 20  # of three workers, etcd and all processes on a machine of two cores
_FLAPPING_S = 60.0  # how much longer, if workers end meanwhile
_ANSWER_S = 20.0
_PAUSE_S = 0.2
UNHURRIED = {"source_stall_s": 5.0, "rpc_timeout_s": 5.0, "connect_timeout_s": 5.0}  # while nothing is wrong
_HELD = {"live", "lost"}  # of what was lost with a worker, its holder means to publish it again


class HostScenario(Scenario):
    """After the fault, whatever somebody still holds has to be found again, from a host that was drawn."""

    @property
    def cluster(self) -> Cluster:
        assert isinstance(self.workers, Cluster)
        return self.workers

    def lose(self, where: str) -> None:
        """Lose a host, with all that runs on it."""
        self._verdict.to_die.update(node for node in self.nodes if node.where == where)
        self.cluster.host(where).kill()
        self._leaks.forget(where)

    def _holders(self) -> dict[Node, str]:
        """Who holds it, each with what is in the way of its lease."""
        found = {}
        for node in self.nodes:
            if node.gone or node in self._verdict.to_die:
                continue
            node.start("holds", identity=self.spec.identity)
            answer = self._finish(node, _ANSWER_S)
            if _HELD & set(answer.get("states", ())):
                found[node] = str(answer["trouble"])
        return found

    def run(self, fault: Fault) -> None:
        why = self.cluster.settle()
        if why:
            self._verdict.unsettled(why)
            self.cluster.replace()
        super().run(fault)

    def _recover(self) -> None:
        holders = self._holders()
        if not holders:
            return
        guest = self._guest()
        started = time.monotonic()
        end, tries = started + _RECOVERY_S, []
        last = end + _FLAPPING_S
        while time.monotonic() < end:
            if self.cluster.revive():
                end = min(last, time.monotonic() + _RECOVERY_S)
            self._start_load(guest, self.spec.contents[:1])
            answer = self._finish(guest, self.spec.deadline_s)
            if "transport" in answer or "seconds" not in answer:
                self._verdict.recovered(time.monotonic() - started)
                self._verdict.load(guest, answer, frozenset(), must_fail=False)
                return
            tries.append(f"{answer.get('error')}: {answer.get('message')}")
            time.sleep(_PAUSE_S)
        told = [f"{node.name} on host {node.where}: {why}\n{node.tail()}" for node, why in self._holders().items()]
        self._verdict.lost("\n".join([f"held by {len(holders)}; {tries[-1:]}", *told]))

    def _guest(self) -> Node:
        """A reader that keeps nothing."""
        part = self.spec.readers[0]
        where = self.spec.rng.choice([host.number for host in self.cluster.bed.hosts])
        return self._take(Part(part.framework, {**part.settings, **UNHURRIED, "hold": False}, str(where)))
