"""Where a campaign runs: which processes and workers there are, and what may go wrong there."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from chaos import schedule
from chaos.clock import PAUSES, build_library
from chaos.faults import KINDS, Fault
from chaos.processes import Nodes
from chaos.scenario import Scenario
from chaos.schedule import Round
from chaos.workers import LocalWorkers, Workers

__all__ = ["OneHost", "Site"]

_POOL_MB = 256


class Site(abc.ABC):
    """Where a campaign runs.

    Attributes:
        target: Of make, that runs such a campaign.
        kinds: Of faults.
        warm_up: How weights are published in each round of the warm-up.
        warm_up_on: The hosts of the two nodes that the warm-up is with.
        scenario: How a round runs.
    """

    target: str
    kinds: Mapping[str, type[Fault]]
    warm_up: Sequence[str]
    warm_up_on: Sequence[str]
    scenario: type[Scenario]

    @abc.abstractmethod
    def make(self, stack: ExitStack, directory: Path, clock_library: Path) -> tuple[Nodes, Workers]:
        """What the campaign needs, which ends with the stack."""

    @abc.abstractmethod
    def draw(self, seed: int, number: int, kind: str) -> Round:
        """A round with a fault of this kind."""


class OneHost(Site):
    """This one, with one worker."""

    target = "chaos"
    kinds = KINDS
    warm_up = ("host", "staged", "d2d", "d2d")
    warm_up_on = ("", "")
    scenario = Scenario

    def make(self, stack: ExitStack, directory: Path, clock_library: Path) -> tuple[Nodes, Workers]:
        nodes = stack.enter_context(Nodes(directory, clock_library))
        preloaded = clock_library, build_library(directory, PAUSES)
        return nodes, stack.enter_context(LocalWorkers(_POOL_MB, preloaded))

    def draw(self, seed: int, number: int, kind: str) -> Round:
        return schedule.draw(seed, number, kind, KINDS[kind].transports)
