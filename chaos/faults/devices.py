"""Faults of simulated devices."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from chaos.faults.fault import ALL, ANY, DEVICE_TO_DEVICE, ON_DEVICES, Fault, Nothing
from chaos.schedule import Round

if TYPE_CHECKING:
    from chaos.scenario import Scenario

__all__ = [
    "CAPTURE_S",
    "DeviceCapture",
    "DeviceComm",
    "DeviceCopy",
    "DeviceCorrupt",
    "DeviceFreeze",
    "DeviceLagging",
    "DeviceMalloc",
    "DeviceOpaque",
    "DeviceRecv",
    "DeviceSend",
]


CAPTURE_S = 1.0


class DeviceLagging(Nothing):
    """What a framework has asked for is done late, into memory that the CPU does not reach: no excuse either."""

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        _put(spec, "lagging")


class DeviceCapture(Nothing):
    """Everybody captures a graph for a while, in the mode that forbids other threads synchronous copies: no excuse."""

    transports = ON_DEVICES
    moments = ("published", "loading")

    def strike(self, scenario: Scenario) -> None:
        for node in (*scenario.publishers, *scenario.readers):
            node.signal(signal.SIGUSR2)

    def lift(self, scenario: Scenario) -> None:
        time.sleep(CAPTURE_S)


class _Device(Fault):
    """A fault of a simulated device, in a process that publishes or one that reads."""

    transports: tuple[str, ...] = ON_DEVICES
    allowed = ALL
    moments: tuple[str, ...] = ("before", "published", "loading")
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

    def before(self, scenario: Scenario) -> None:
        if self.moment == "before":
            self.strike(scenario)

    def strike(self, scenario: Scenario) -> None:
        for node in scenario.publishers if self.source else scenario.readers:
            scenario.device_faults(node, self.line)

    def lift(self, scenario: Scenario) -> None:
        for node in scenario.nodes:
            node.faults()


class DeviceSend(_Device):
    operations, actions, at_source, transports = ("send",), ("fail", "drop"), True, DEVICE_TO_DEVICE


class DeviceRecv(_Device):
    operations, actions, at_source, transports = ("recv",), ("fail", "drop"), False, DEVICE_TO_DEVICE


class DeviceCopy(_Device):
    operations, actions = ("copy",), ("fail", "delay_ms=200")


class DeviceMalloc(_Device):
    operations, actions = ("malloc",), ("oom", "fail")


class DeviceComm(_Device):
    operations, actions, transports = ("comm",), ("fail", "delay_ms=400", "freeze"), DEVICE_TO_DEVICE


class DeviceCorrupt(_Device):
    operations, actions = ("recv", "copy"), ("corrupt=1", "corrupt=7")


class DeviceFreeze(_Device):
    operations, actions = ("send", "recv", "copy", "malloc"), ("freeze",)


class DeviceOpaque(_Device):
    """Tensors are where the CPU does not reach them, as on a real device: all bytes go by copies that may fail."""

    operations, actions, transports = ("recv", "copy"), ("fail", "corrupt=1", "freeze"), ANY
    moments = ("published", "loading")

    def __init__(self, spec: Round) -> None:
        super().__init__(spec)
        _put(spec, "opaque")


def _put(spec: Round, framework: str) -> None:
    for part in (*spec.publishers, *spec.readers):
        part.framework = framework
