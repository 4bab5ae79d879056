"""What may go wrong in a cluster: hosts, links, workers and the etcd are away for a while, or for good."""

from __future__ import annotations

import abc
import signal
import time
from typing import TYPE_CHECKING

from chaos.faults.fault import GONE, Fault, Nothing
from chaos.faults.signals import PublisherKilled, PublisherStopped, PublisherTerminated, ReaderKilled, ReaderStopped
from chaos.hosts.bed import NODE_DEAD_TIMEOUT_S
from chaos.hosts.scenario import HostScenario
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = ["KINDS"]

_TRANSPORTS = ("host", "host", "d2d")


class _Cluster(Fault, abc.ABC):
    """Something is away, for less or for more than the time after which others take over."""

    transports = _TRANSPORTS
    allowed = GONE
    publish_allowed = GONE
    moments = ("publishing", "published", "published", "loading", "loading")
    slow = False

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.host = self.rng.choice([part.where for part in (*spec.publishers[:1], *spec.holders, *spec.readers)])
        self.away_s = round(self.rng.uniform(0.3, 2 * NODE_DEAD_TIMEOUT_S), 1)
        self._since = 0.0
        self.told |= {"host": self.host, "away_s": self.away_s}

    def strike(self, scenario: Scenario) -> None:
        assert isinstance(scenario, HostScenario)
        self._since = time.monotonic()
        self.take(scenario)

    def lift(self, scenario: Scenario) -> None:
        assert isinstance(scenario, HostScenario)
        time.sleep(max(0.0, self._since + self.away_s - time.monotonic()))
        self.give_back(scenario)

    @abc.abstractmethod
    def take(self, scenario: HostScenario) -> None: ...

    @abc.abstractmethod
    def give_back(self, scenario: HostScenario) -> None: ...


class HostKilled(_Cluster):
    def take(self, scenario: HostScenario) -> None:
        scenario.lose(self.host)

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).mend()
        scenario.cluster.restart(self.host)


class LinkCut(_Cluster):
    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).cut()

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).mend()


class LinkSlow(_Cluster):
    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.mbit_per_s = self.rng.choice([10, 50, 200])
        self.told["mbit_per_s"] = self.mbit_per_s

    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).limit(self.mbit_per_s)

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).unlimit()


class WorkerKilled(_Cluster):
    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).kill_worker()

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.restart(self.host)


class WorkerStopped(_Cluster):
    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).signal_worker(signal.SIGSTOP)

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.host(self.host).signal_worker(signal.SIGCONT)


class EtcdCut(_Cluster):
    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.bed.etcd.cut()

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.bed.etcd.mend()


class EtcdKilled(_Cluster):
    """It comes back with what it had written."""

    def take(self, scenario: HostScenario) -> None:
        scenario.cluster.bed.kill_etcd()

    def give_back(self, scenario: HostScenario) -> None:
        scenario.cluster.bed.start_etcd()


class _Of(Fault):
    transports = _TRANSPORTS


class Nobody(_Of, Nothing):
    """Everything has to work."""


class PublisherKilledThere(_Of, PublisherKilled):
    """Whoever holds a copy goes on."""


class PublisherStoppedThere(_Of, PublisherStopped):
    pass


class PublisherTerminatedThere(_Of, PublisherTerminated):
    pass


class ReaderKilledThere(_Of, ReaderKilled):
    """The first one of its host, perhaps, for which others wait."""


class ReaderStoppedThere(_Of, ReaderStopped):
    pass


KINDS: dict[str, type[Fault]] = {
    "none": Nobody,
    "publisher.sigkill": PublisherKilledThere,
    "publisher.sigstop": PublisherStoppedThere,
    "publisher.sigterm": PublisherTerminatedThere,
    "reader.sigkill": ReaderKilledThere,
    "reader.sigstop": ReaderStoppedThere,
    "host.killed": HostKilled,
    "link.cut": LinkCut,
    "link.slow": LinkSlow,
    "worker.sigkill": WorkerKilled,
    "worker.sigstop": WorkerStopped,
    "etcd.cut": EtcdCut,
    "etcd.sigkill": EtcdKilled,
}
