"""Wall clocks that jump."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.clock import Clock
from chaos.faults.fault import GONE, Fault
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = ["ClockJump"]


class ClockJump(Fault):
    """The wall clock of some processes is set, and set back at the end."""

    allowed = GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.whose = self.rng.choice(["publisher", "readers", "worker", "all"])
        self.seconds = self.rng.choice([-1, 1]) * self.rng.choice([5, 90, 3600, 40 * 86400])
        self.told |= {"whose": self.whose, "seconds": self.seconds}

    def _clocks(self, scenario: Scenario) -> list[Clock]:
        of = {
            "publisher": [node.clock for node in scenario.publishers],
            "readers": [node.clock for node in scenario.readers],
            "worker": [scenario.worker.clock],
        }
        return [clock for each in of.values() for clock in each] if self.whose == "all" else of[self.whose]

    def strike(self, scenario: Scenario) -> None:
        for clock in self._clocks(scenario):
            clock.jump(self.seconds)

    def lift(self, scenario: Scenario) -> None:
        for clock in self._clocks(scenario):
            clock.jump(0)
