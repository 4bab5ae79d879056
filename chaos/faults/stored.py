"""Faults of what the worker stores: no room for it, objects that are changed or gone, leases that end."""

from __future__ import annotations

import abc
import contextlib
import time
from typing import TYPE_CHECKING

import yr_fastload_native as fl
from chaos.faults.fault import DAMAGED, FULL, Fault
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = [
    "ChunkDeleted",
    "ChunkReplaced",
    "ChunkTruncated",
    "LeaseExpired",
    "ManifestDeleted",
    "ManifestReplaced",
    "ManifestTruncated",
    "PoolFull",
]

_MIB = 1 << 20


class PoolFull(Fault):
    """No room in the worker's pool, which is a memfd in openYuanrong 0.8.1: nobody would notice a full /dev/shm."""

    allowed = FULL
    moments = ("before", "publishing", "published")
    _SIZES = (16 * _MIB, _MIB, _MIB // 16)

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self._filling: list[str] = []

    def before(self, scenario: Scenario) -> None:
        if self.moment == "before":
            self.strike(scenario)

    def strike(self, scenario: Scenario) -> None:
        store = scenario.worker.connect(rpc_timeout_s=0.3)
        for size in self._SIZES:
            value = bytes(size)
            with contextlib.suppress(fl.FastLoadError):
                while True:
                    key = f"chaos-filling-{self.spec.number}-{len(self._filling)}"
                    self._filling.append(key)
                    store.set(key, value, ttl_s=60, deadline_s=2)
        self.told["filled"] = len(self._filling)

    def lift(self, scenario: Scenario) -> None:
        scenario.worker.store.erase(self._filling, deadline_s=5)


class _Meddling(Fault, abc.ABC):
    """Somebody deletes, replaces or truncates an object under the readers."""

    moments = ("published", "loading")
    allowed = DAMAGED | FULL
    how = "deleted"

    @abc.abstractmethod
    def keys(self, scenario: Scenario) -> list[str]:
        """Of the objects that it meddles with."""

    def strike(self, scenario: Scenario) -> None:
        store = scenario.worker.store
        for key in self.keys(scenario):
            if self.how == "deleted":
                store.erase([key], deadline_s=2)
                continue
            value = store.get(key, deadline_s=2)
            if not value:
                continue
            if self.how == "truncated":
                value = value[: self.rng.randrange(1, len(value) + 1) - 1] or b"x"
            else:
                value = self.rng.choice([self.rng.randbytes(len(value)), value[::-1], value + value[:64]])
            store.erase([key], deadline_s=2)  # openYuanrong keeps objects of devices from being overwritten
            store.set(key, value, ttl_s=10, deadline_s=2)
            self.told.setdefault("changed", []).append(key[-30:])


class _Manifest(_Meddling):
    def keys(self, scenario: Scenario) -> list[str]:
        return scenario.ledger.manifests()


class _Chunk(_Meddling):
    def keys(self, scenario: Scenario) -> list[str]:
        keys = scenario.ledger.chunks() if scenario.spec.publish_as != "d2d" else scenario.ledger.digests()
        return self.rng.sample(keys, min(len(keys), self.rng.randint(1, 3)))


class ManifestDeleted(_Manifest):
    how = "deleted"


class ManifestReplaced(_Manifest):
    how = "replaced"


class ManifestTruncated(_Manifest):
    how = "truncated"


class ChunkDeleted(_Chunk):
    how = "deleted"


class ChunkReplaced(_Chunk):
    how = "replaced"


class ChunkTruncated(_Chunk):
    how = "truncated"


class LeaseExpired(Fault):
    """Everything that keeps a publication ends a second later, while loads run: nobody has renewed it."""

    moments = ("published",)
    allowed = DAMAGED
    _TTL_S = 1
    _RENEWED_S = 0.3  # by then the publisher has renewed what it announced, and does so again in twenty minutes

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.delay_s = round(self.rng.uniform(0.4, 1.2), 2)
        self.told["delay_s"] = self.delay_s
        for part in spec.publishers:
            part.settings["lease_s"] = 3600
        for part in spec.readers:
            part.settings["hold"] = False  # nor do readers

    def strike(self, scenario: Scenario) -> None:
        time.sleep(self._RENEWED_S)
        scenario.worker.store.expire(scenario.ledger.everything(), ttl_s=self._TTL_S, deadline_s=5)
        time.sleep(self.delay_s)

    def after(self, scenario: Scenario) -> None:
        scenario.wait_until_gone(scenario.ledger.everything()[:1])
        scenario.load(scenario.readers[:1], allowed={"NOT_PUBLISHED"}, must_fail=True)
