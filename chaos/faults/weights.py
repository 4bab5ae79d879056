"""Weights that change: others for the same identity, and others in the memory that is published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.faults.fault import DAMAGED, GONE, Fault
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = ["TwoPublishers", "WeightsChanged"]


class TwoPublishers(Fault):
    """Two processes publish one identity at once; a reader gets the weights of the one or of the other, whole."""

    moments = ("publishing",)
    allowed = DAMAGED
    publish_allowed = GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.delay_s = min(self.delay_s, 0.2)
        self.equal = self.rng.random() < 0.25
        self.told |= {"equal": self.equal, "delay_s": self.delay_s}

    def strike(self, scenario: Scenario) -> None:
        scenario.start_second_publisher(0 if self.equal else 1)


class WeightsChanged(Fault):
    """A program writes to what it has published. By reference that has to be noticed; copies are what they were."""

    moments = ("published", "loading")
    allowed = DAMAGED
    clean = True

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        counted = spec.publishers[0].framework == "torch"
        self.seen = counted and self.rng.random() < 0.6
        if counted and not self.seen:
            self.settle_s = 5.0  # what is written behind torch's back is found by the digests alone
        self.told["seen"] = self.seen

    def strike(self, scenario: Scenario) -> None:
        scenario.overwrite(seen=self.seen)

    def after(self, scenario: Scenario) -> None:
        scenario.load(scenario.readers[:1], allowed=self.allowed)
