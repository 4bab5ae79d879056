"""What a launcher makes: one running vLLM server, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

__all__ = ["Devices", "Kind", "Launched", "Launcher", "Order"]

Kind = Literal["NPU", "GPU"]


@attrs.frozen
class Devices:
    """Accelerators that instances can be given.

    Attributes:
        kind: Of all of them; None: there are none, and instances run on CPUs.
        count: How many; None: as many as whoever gives them has at the time.
    """

    kind: Kind | None = None
    count: int | None = None


@attrs.frozen
class Order:
    """What is to be started.

    Attributes:
        name: Of the instance, in lines of its log.
        arguments: Of the Python of the machine where it starts; ``--host`` and ``--port``, or ``--uds``, are added.
        environment: Beside that of the process that starts it.
        grace_s: From being asked to end to being killed, seconds.
        devices: So many of them, which the launcher chooses.
        defaults: As `environment`, for variables that the process that starts it does not have.
        uds: Path of the Unix socket on which it is to listen, on its machine; None: on a port.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float
    devices: int = 0
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    uds: str | None = None


class Launched(Protocol):
    """A server that was started. Its methods may be called from any thread and block for a moment; none raises."""

    @property
    def pid(self) -> int | None:
        """Of the process that leads it, on its machine."""

    @property
    def host(self) -> str:
        """Where its server listens."""

    @property
    def port(self) -> int: ...

    @property
    def uds(self) -> str | None:
        """The Unix socket where it listens instead."""

    def ended(self) -> str | None:
        """How it ended, with the last of what it wrote; None while it runs."""

    def events(self) -> list[dict[str, Any]]:
        """What its ranks said of their weights so far (`yr_fastload_native.vllm.reports`)."""

    def stop(self) -> None:
        """Ask it to end, and wait until it and all that it started are gone; killed after the order's grace."""


class Launcher(Protocol):
    """Starts servers, on this machine or on others."""

    @property
    def devices(self) -> Devices:
        """What there is to be given to servers."""

    def launch(self, order: Order) -> Launched:
        """Start one, and return before it is ready; bounded.

        Raises:
            FastLoadError: It cannot be started; the message says why.
        """

    def close(self) -> None:
        """Let go of what the launcher itself holds; its servers have been stopped. Twice is as once."""
