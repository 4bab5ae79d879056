"""Processes and workers that are killed, stopped and started again."""

from __future__ import annotations

import abc
import signal
from typing import TYPE_CHECKING

from chaos.faults.fault import GONE, Fault
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.processes import Node
    from chaos.scenario import Scenario
    from chaos.workers import Worker

__all__ = [
    "PublisherKilled",
    "PublisherStopped",
    "PublisherTerminated",
    "ReaderKilled",
    "ReaderStopped",
    "ReaderTerminated",
    "WorkerKilled",
    "WorkerRestarted",
    "WorkerStopped",
    "WorkerTerminated",
]

_LONGEST_STOP_S = 3.0


class _Signal(Fault, abc.ABC):
    """A process is stopped for a while, or for good."""

    number: int

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.told["stopped_s"] = self.stopped_s = round(self.rng.uniform(0.2, _LONGEST_STOP_S), 2)

    @abc.abstractmethod
    def target(self, scenario: Scenario) -> Node | Worker:
        """What it strikes."""

    def strike(self, scenario: Scenario) -> None:
        if self.number == signal.SIGSTOP:
            scenario.freeze(self.target(scenario), self.stopped_s)
        else:
            self.target(scenario).signal(self.number)

    def lift(self, scenario: Scenario) -> None:
        scenario.thaw()


class _Publisher(_Signal):
    allowed = GONE

    def target(self, scenario: Scenario) -> Node | Worker:
        return scenario.publishers[0]


class _Reader(_Signal):
    moments = ("loading",)
    allowed = GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        while len(spec.readers) < 2:  # the others must not suffer
            spec.readers.append(spec.readers[0])

    def target(self, scenario: Scenario) -> Node | Worker:
        return scenario.readers[0]


class _Worker(_Signal):
    allowed = GONE

    def target(self, scenario: Scenario) -> Node | Worker:
        return scenario.worker

    def lift(self, scenario: Scenario) -> None:
        super().lift(scenario)
        if self.number != signal.SIGSTOP:
            scenario.worker_is_gone()


class PublisherKilled(_Publisher):
    number = signal.SIGKILL


class PublisherStopped(_Publisher):
    number = signal.SIGSTOP


class PublisherTerminated(_Publisher):
    number = signal.SIGTERM


class ReaderKilled(_Reader):
    number = signal.SIGKILL


class ReaderStopped(_Reader):
    number = signal.SIGSTOP


class ReaderTerminated(_Reader):
    number = signal.SIGTERM


class WorkerKilled(_Worker):
    number = signal.SIGKILL


class WorkerStopped(_Worker):
    number = signal.SIGSTOP


class WorkerTerminated(_Worker):
    number = signal.SIGTERM


class WorkerRestarted(Fault):
    """It comes back at the same address with nothing in it: nobody may take what it forgot for published."""

    moments = ("published", "loading")
    allowed = GONE

    def strike(self, scenario: Scenario) -> None:
        scenario.worker.restart()

    def after(self, scenario: Scenario) -> None:
        # By the same connections, and then published anew.
        scenario.load(scenario.readers[:1], allowed=GONE)
        for publisher in scenario.publishers:
            scenario.close(publisher)
        scenario.publish()
        scenario.load(scenario.readers[:1], allowed=GONE)
