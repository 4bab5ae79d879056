"""What a fault is: when it strikes, and which ends of a load it allows."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING, Any

from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = ["ALL", "ANY", "DAMAGED", "DEVICE_TO_DEVICE", "FULL", "GONE", "ON_DEVICES", "Fault", "Nothing"]

ANY = ("host", "staged", "d2d", "d2d+staged", "d2d+host")
ON_DEVICES = ("staged", "d2d", "d2d+staged")
DEVICE_TO_DEVICE = ("d2d", "d2d+staged", "d2d+host")

# Ends of a load beside success; INTERNAL, INVALID_ARGUMENT and LAYOUT_MISMATCH are never the right word for a fault.
GONE = {"NOT_PUBLISHED", "PARTIAL_TRANSFER", "TRANSFER_TIMEOUT", "UNAVAILABLE"}
DAMAGED = {*GONE, "INTEGRITY"}
FULL = {*GONE, "RESOURCE_EXHAUSTED"}
ALL = {*DAMAGED, *FULL, "DEVICE"}


class Fault:
    """One kind.

    Attributes:
        transports: With which it has a meaning.
        allowed: Codes that a load may end with.
        moments: When it may strike.
        clean: Whether what was published is gone as soon as everybody has closed; else within leases.
        slow: Whether a link between devices is slowed, for the fault to meet a transfer.
        beside: Whether readers begin while it is being published, too.
    """

    transports: tuple[str, ...] = ANY
    allowed: Set[str] = ALL
    publish_allowed: Set[str] = ALL
    moments: tuple[str, ...] = ("publishing", "published", "loading")
    clean = False
    slow = True
    beside = False
    settle_s = 0.0  # how long a publish waits until its digests are stored

    def __init__(self, spec: Round) -> None:
        self.spec = spec
        self.rng = spec.rng
        self.moment = self.rng.choice(self.moments)
        # From far less than the call takes to about as much.
        slowed = self.moment == "loading" and self.slow and "d2d" in spec.publish_as
        self.delay_s = round(10 ** self.rng.uniform(-3, 0 if slowed else -1), 4)
        self.told: dict[str, Any] = {"moment": self.moment, "delay_s": self.delay_s}

    def before(self, scenario: Scenario) -> None:
        """Before anything is published."""

    def strike(self, scenario: Scenario) -> None:
        """At the moment."""

    def lift(self, scenario: Scenario) -> None:
        """Once all loads have ended."""

    def after(self, scenario: Scenario) -> None:
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
