"""A checkpoint that is read while it is published, and what goes wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chaos.faults.fault import DAMAGED, FULL, Fault
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = ["Checkpoint"]

_HOW = ("nothing", "killed", "stopped", "chunk deleted", "chunk replaced", "files replaced")
_LONGEST_STOP_S = 3.0


class Checkpoint(Fault):
    """Readers with the files and without them get the tensors that these hold, or an error."""

    transports = ("host",)
    allowed = DAMAGED | FULL
    publish_allowed = DAMAGED
    beside = True

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.how = self.rng.choice(_HOW)
        self.stopped_s = round(self.rng.uniform(0.2, _LONGEST_STOP_S), 2)
        self.told["how"] = self.how

    def before(self, scenario: Scenario) -> None:
        scenario.write_files(0)
        if self.how.startswith("chunk"):  # in the pool itself, which others trust
            scenario.verify = "digest"

    def strike(self, scenario: Scenario) -> None:
        if self.how == "killed":
            scenario.kill(scenario.publishers[0])
        elif self.how == "stopped":
            scenario.freeze(scenario.publishers[0], self.stopped_s)
        elif self.how == "files replaced":
            scenario.write_files(1)
        elif self.how.startswith("chunk"):
            self._meddle(scenario, self.how.removeprefix("chunk "))

    def _meddle(self, scenario: Scenario, how: str) -> None:
        store, keys = scenario.worker.store, scenario.ledger.chunks()
        for key in self.rng.sample(keys, min(len(keys), 3)):
            value = store.get(key, deadline_s=2)
            store.erase([key], deadline_s=2)
            if value and how == "replaced":
                store.set(key, self.rng.randbytes(len(value)), ttl_s=10, deadline_s=2)

    def lift(self, scenario: Scenario) -> None:
        scenario.thaw()
