"""Three hosts and an etcd, and the rounds that run there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import attrs

from chaos import schedule
from chaos.clock import PAUSES, build_library
from chaos.hosts.bed import Bed
from chaos.hosts.cluster import Cluster
from chaos.hosts.faults import KINDS
from chaos.hosts.scenario import UNHURRIED, HostScenario
from chaos.processes import Nodes
from chaos.schedule import Part, Round
from chaos.site import Site
from chaos.workers import Workers

__all__ = ["Hosts"]

_HOSTS = ("1", "2", "3")
_HOLDER = 0.7  # share of the rounds in which somebody else has a copy before anything goes wrong
_DEADLINE_S = (3.0, 7.0)


class Hosts(Site):
    """Hosts of a cluster."""

    target = "chaos-hosts"
    kinds = KINDS
    warm_up = ("host", "d2d")
    warm_up_on = _HOSTS[:2]
    scenario = HostScenario

    def make(self, stack: ExitStack, directory: Path, clock_library: Path) -> tuple[Nodes, Workers]:
        bed = stack.enter_context(Bed(len(_HOSTS), etcd=True, preloaded=build_library(directory, PAUSES)))
        cluster = Cluster(bed)
        namespaces = {str(host.number): host.name for host in bed.hosts}
        return stack.enter_context(Nodes(directory, clock_library, namespaces)), cluster

    def draw(self, seed: int, number: int, kind: str) -> Round:
        """Publisher, holder and readers are on hosts of their own as far as there are enough."""
        spec = schedule.draw(seed, number, kind, KINDS[kind].transports)
        rng = spec.rng
        spec.deadline_s = round(rng.uniform(*_DEADLINE_S), 2)
        first, second, third = rng.sample(_HOSTS, len(_HOSTS))
        spec.publishers = [attrs.evolve(part, where=first) for part in spec.publishers]
        spec.readers = [attrs.evolve(part, where=rng.choice([second, third])) for part in spec.readers]
        if rng.random() < _HOLDER:
            part = spec.readers[0]
            spec.holders = [Part(part.framework, {**part.settings, **UNHURRIED, "hold": True}, second)]
        return spec
