"""The kinds of faults: how each strikes, and which ends of a load it allows.

Whatever the fault, bytes that were loaded are right, errors are typed and come in time, and nothing is written later.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Set
from typing import Any

from schedule import Round
from stage import Stage

import yr_fastload_native as fl

_MIB = 1 << 20
_ANY = ("host", "staged", "d2d", "d2d+staged", "d2d+host")
_DEVICE = ("staged", "d2d", "d2d+staged")
_D2D = ("d2d", "d2d+staged", "d2d+host")

# Ends of a load beside success; INTERNAL, INVALID_ARGUMENT and LAYOUT_MISMATCH are never the right word for a fault.
_GONE = {"NOT_PUBLISHED", "PARTIAL_TRANSFER", "TRANSFER_TIMEOUT", "UNAVAILABLE"}
_DAMAGED = {*_GONE, "INTEGRITY"}
_FULL = {*_GONE, "RESOURCE_EXHAUSTED"}
_ALL = {*_DAMAGED, *_FULL, "DEVICE"}


class Fault:
    """One kind.

    Attributes:
        transports: With which it has a meaning.
        allowed: Codes that a load may end with.
        moments: When it may strike.
        clean: Whether what was published is gone as soon as everybody has closed; else within leases.
        slow: Whether a link between devices is slowed, for the fault to meet a transfer.
    """

    transports: tuple[str, ...] = _ANY
    allowed: Set[str] = _ALL
    publish_allowed: Set[str] = _ALL
    moments: tuple[str, ...] = ("publishing", "published", "loading")
    clean = False
    slow = True
    settle_s = 0.0  # how long a publish waits until its digests are stored

    def __init__(self, spec: Round) -> None:
        self.spec = spec
        self.rng = spec.rng
        self.moment = self.rng.choice(self.moments)
        # From far less than the call takes to about as much.
        slowed = self.moment == "loading" and self.slow and "d2d" in spec.publish_as
        self.delay_s = round(10 ** self.rng.uniform(-3, 0 if slowed else -1), 4)
        self.told: dict[str, Any] = {"moment": self.moment, "delay_s": self.delay_s}

    def before(self, stage: Stage) -> None:
        """Before anything is published."""

    def strike(self, stage: Stage) -> None:
        """At the moment."""

    def lift(self, stage: Stage) -> None:
        """Once all loads have ended."""

    def after(self, stage: Stage) -> None:
        """More checks, once the fault is lifted."""


class Nothing(Fault):
    """Everything has to work."""

    allowed = frozenset()
    publish_allowed = frozenset()
    clean = True
    slow = False

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        spec.deadline_s = 10.0
        for part in (*spec.publishers, *spec.readers):
            part.settings |= {"rpc_timeout_s": 5.0, "connect_timeout_s": 5.0}
        for part in spec.readers:
            part.settings["source_stall_s"] = 5.0


class _Signal(Fault):
    """A process is stopped for a while, or for good."""

    number = signal.SIGKILL

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.told["stopped_s"] = self.stopped_s = round(self.rng.uniform(0.2, LONGEST_STOP_S), 2)

    def target(self, stage: Stage) -> Any:
        raise NotImplementedError

    def strike(self, stage: Stage) -> None:
        if self.number == signal.SIGSTOP:
            stage.freeze(self.target(stage), self.stopped_s)
        else:
            self.target(stage).signal(self.number)

    def lift(self, stage: Stage) -> None:
        stage.thaw()


LONGEST_STOP_S = 3.0


class _Publisher(_Signal):
    allowed = _GONE

    def target(self, stage: Stage) -> Any:
        return stage.publishers[0]


class _Reader(_Signal):
    moments = ("loading",)
    allowed = _GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        while len(spec.readers) < 2:  # the others must not suffer
            spec.readers.append(spec.readers[0])

    def target(self, stage: Stage) -> Any:
        return stage.readers[0]


class _Worker(_Signal):
    allowed = _GONE
    slow = True

    def target(self, stage: Stage) -> Any:
        return stage.workers.current

    def lift(self, stage: Stage) -> None:
        super().lift(stage)
        if self.number != signal.SIGSTOP:
            stage.worker_is_gone()


def _by_signal(whom: type[_Signal]) -> tuple[type[_Signal], ...]:
    """Killed, stopped, terminated."""
    return tuple(
        type(f"{whom.__name__}{number.name}", (whom,), {"number": number})
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)
    )


PublisherKilled, PublisherStopped, PublisherTerminated = _by_signal(_Publisher)
ReaderKilled, ReaderStopped, ReaderTerminated = _by_signal(_Reader)
WorkerKilled, WorkerStopped, WorkerTerminated = _by_signal(_Worker)


class WorkerRestarted(Fault):
    """It comes back at the same address with nothing in it: nobody may take what it forgot for published."""

    moments = ("published", "loading")
    allowed = _GONE

    def strike(self, stage: Stage) -> None:
        stage.workers.current.restart()

    def after(self, stage: Stage) -> None:
        # By the same connections, and then published anew.
        stage.load(stage.readers[:1], allowed=_GONE)
        for publisher in stage.publishers:
            stage.close(publisher)
        stage.publish()
        stage.load(stage.readers[:1], allowed=_GONE)


class _Device(Fault):
    """A fault of a simulated device, in a process that publishes or one that reads."""

    transports = _DEVICE
    allowed = _ALL
    moments = ("before", "published", "loading")
    clean = True
    operations: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    at_source: bool | None = None  # None: either

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        first = self.rng.randint(1, 12)
        on = self.rng.choice(self.operations)
        times = self.rng.choice(["", "+"])
        self.line = f"{on}@{first}{times}:{self.rng.choice(self.actions)}"
        self.source = self.rng.random() < 0.5 if self.at_source is None else self.at_source
        self.told |= {"fault": self.line, "at": "publisher" if self.source else "readers"}

    def before(self, stage: Stage) -> None:
        if self.moment == "before":
            self.strike(stage)

    def strike(self, stage: Stage) -> None:
        for node in stage.publishers if self.source else stage.readers:
            stage.device_faults(node, self.line)

    def lift(self, stage: Stage) -> None:
        for node in stage.nodes:
            node.faults()


class DeviceSend(_Device):
    operations, actions, at_source, transports = ("send",), ("fail", "drop"), True, _D2D


class DeviceRecv(_Device):
    operations, actions, at_source, transports = ("recv",), ("fail", "drop"), False, _D2D


class DeviceCopy(_Device):
    operations, actions = ("copy",), ("fail", "delay_ms=200")


class DeviceMalloc(_Device):
    operations, actions = ("malloc",), ("oom", "fail")


class DeviceComm(_Device):
    operations, actions, transports = ("comm",), ("fail", "delay_ms=400", "freeze"), _D2D


class DeviceCorrupt(_Device):
    operations, actions = ("recv", "copy"), ("corrupt=1", "corrupt=7")


class DeviceFreeze(_Device):
    operations, actions = ("send", "recv", "copy", "malloc"), ("freeze",)


class PoolFull(Fault):
    """No room in the worker's pool, which is a memfd in openYuanrong 0.8.1: nobody would notice a full /dev/shm."""

    allowed = _FULL
    moments = ("before", "publishing", "published")
    _SIZES = (16 * _MIB, _MIB, _MIB // 16)

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self._filling: list[str] = []

    def before(self, stage: Stage) -> None:
        if self.moment == "before":
            self.strike(stage)

    def strike(self, stage: Stage) -> None:
        store = stage.workers.current.connect(rpc_timeout_s=0.3)
        for size in self._SIZES:
            value = bytes(size)
            with contextlib.suppress(fl.FastLoadError):
                while True:
                    key = f"chaos-filling-{self.spec.number}-{len(self._filling)}"
                    self._filling.append(key)
                    store.set(key, value, ttl_s=60, deadline_s=2)
        self.told["filled"] = len(self._filling)

    def lift(self, stage: Stage) -> None:
        stage.workers.current.store.erase(self._filling, deadline_s=5)


class _Meddling(Fault):
    """Somebody deletes, replaces or truncates an object under the readers."""

    moments = ("published", "loading")
    allowed = _DAMAGED | _FULL
    how = "deleted"

    def keys(self, stage: Stage) -> list[str]:
        raise NotImplementedError

    def strike(self, stage: Stage) -> None:
        store = stage.workers.current.store
        for key in self.keys(stage):
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
    def keys(self, stage: Stage) -> list[str]:
        return stage.ledger.manifests()


class _Chunk(_Meddling):
    def keys(self, stage: Stage) -> list[str]:
        keys = stage.ledger.chunks() if stage.spec.publish_as != "d2d" else stage.ledger.digests()
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
    allowed = _DAMAGED
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

    def strike(self, stage: Stage) -> None:
        time.sleep(self._RENEWED_S)
        stage.workers.current.store.expire(stage.ledger.keys(), ttl_s=self._TTL_S, deadline_s=5)
        time.sleep(self.delay_s)

    def after(self, stage: Stage) -> None:
        stage.wait_until_gone(stage.ledger.keys()[:1])
        stage.load(stage.readers[:1], allowed={"NOT_PUBLISHED"}, must_fail=True)


class ClockJump(Fault):
    """The wall clock of some processes is set, and set back at the end."""

    allowed = _GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.whose = self.rng.choice(["publisher", "readers", "worker", "all"])
        self.seconds = self.rng.choice([-1, 1]) * self.rng.choice([5, 90, 3600, 40 * 86400])
        self.told |= {"whose": self.whose, "seconds": self.seconds}

    def _clocks(self, stage: Stage) -> list[Any]:
        of = {
            "publisher": [node.clock for node in stage.publishers],
            "readers": [node.clock for node in stage.readers],
            "worker": [stage.workers.current.clock],
        }
        return [clock for each in of.values() for clock in each] if self.whose == "all" else of[self.whose]

    def strike(self, stage: Stage) -> None:
        for clock in self._clocks(stage):
            clock.jump(self.seconds)

    def lift(self, stage: Stage) -> None:
        for clock in self._clocks(stage):
            clock.jump(0)


class TwoPublishers(Fault):
    """Two processes publish one identity at once; a reader gets the weights of the one or of the other, whole."""

    moments = ("publishing",)
    allowed = _DAMAGED
    publish_allowed = _GONE

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        self.delay_s = min(self.delay_s, 0.2)
        self.equal = self.rng.random() < 0.25
        self.told |= {"equal": self.equal, "delay_s": self.delay_s}

    def strike(self, stage: Stage) -> None:
        stage.start_second_publisher(0 if self.equal else 1)


class WeightsChanged(Fault):
    """A program writes to what it has published. By reference that has to be noticed; copies are what they were."""

    moments = ("published", "loading")
    allowed = _DAMAGED
    clean = True

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        counted = spec.publishers[0].framework == "torch"
        self.seen = counted and self.rng.random() < 0.6
        if counted and not self.seen:
            self.settle_s = 5.0  # what is written behind torch's back is found by the digests alone
        self.told["seen"] = self.seen

    def strike(self, stage: Stage) -> None:
        stage.overwrite(seen=self.seen)

    def after(self, stage: Stage) -> None:
        stage.load(stage.readers[:1], allowed=self.allowed)


KINDS: dict[str, type[Fault]] = {
    "none": Nothing,
    "publisher.sigkill": PublisherKilled,
    "publisher.sigstop": PublisherStopped,
    "publisher.sigterm": PublisherTerminated,
    "reader.sigkill": ReaderKilled,
    "reader.sigstop": ReaderStopped,
    "reader.sigterm": ReaderTerminated,
    "worker.sigkill": WorkerKilled,
    "worker.sigstop": WorkerStopped,
    "worker.sigterm": WorkerTerminated,
    "worker.restart": WorkerRestarted,
    "device.send": DeviceSend,
    "device.recv": DeviceRecv,
    "device.copy": DeviceCopy,
    "device.malloc": DeviceMalloc,
    "device.comm": DeviceComm,
    "device.corrupt": DeviceCorrupt,
    "device.freeze": DeviceFreeze,
    "pool.full": PoolFull,
    "manifest.deleted": ManifestDeleted,
    "manifest.replaced": ManifestReplaced,
    "manifest.truncated": ManifestTruncated,
    "chunk.deleted": ChunkDeleted,
    "chunk.replaced": ChunkReplaced,
    "chunk.truncated": ChunkTruncated,
    "lease.expiry": LeaseExpired,
    "clock.jump": ClockJump,
    "two.publishers": TwoPublishers,
    "weights.changed": WeightsChanged,
}
