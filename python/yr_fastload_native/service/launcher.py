"""What a launcher starts: a vLLM server, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import attrs

from yr_fastload_native.vllm.phases import Phase

__all__ = ["Devices", "Kind", "Launched", "Launcher", "Model", "Order"]

Kind = Literal["NPU", "GPU"]


@attrs.frozen
class Devices:
    """Accelerators that instances can be given.

    Attributes:
        kind: The kind of all of them; None: there are none, and instances run on CPUs.
        count: How many there are; None: unknown, the cluster decides.
    """

    kind: Kind | None = None
    count: int | None = None


@attrs.frozen
class Model:
    """What a server is to serve.

    Attributes:
        name: Directory or name, as it stands in the arguments.
        code: Whether it may run code of its own.
        is_named: Whether the arguments say what clients call it.
    """

    name: str
    code: bool = False
    is_named: bool = False


@attrs.frozen
class Order:
    """A server to be started.

    Attributes:
        name: The instance's name, used in its log.
        arguments: For the Python of the machine where it starts; ``--host`` and ``--port``, or ``--uds``, are added.
        environment: Variables in addition to those of the process that starts it.
        grace_s: Time between being asked to end and being killed, seconds.
        devices: Number of devices, which the launcher chooses.
        defaults: Like `environment`, but only for variables that the process that starts it does not have.
        uds: Path of the Unix socket on which it listens, on its machine; None: it listens on a port.
        imports: Modules that its processes may need, for a template that knows no better.
        worker_port: Of openYuanrong's worker on the machine where it starts, at the address where it listens itself; 0:
            the environment, there or here, names one. If that of the machine does, this is not used.
        model: What it serves; None: the arguments name no model.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float
    devices: int = 0
    defaults: Mapping[str, str] = attrs.field(factory=dict)
    uds: str | None = None
    imports: Sequence[str] = ()
    model: Model | None = None
    worker_port: int = 0


class Launched(Protocol):
    """A started server. Its methods can be called from any thread, block briefly, and never raise."""

    @property
    def pid(self) -> int | None:
        """Its leading process, on its machine."""

    @property
    def host(self) -> str:
        """Where its server listens."""

    @property
    def port(self) -> int: ...

    @property
    def uds(self) -> str | None:
        """The Unix socket on which it listens instead."""

    @property
    def from_template(self) -> bool:
        """Whether it was forked from a process that had imported what it needs."""

    @property
    def not_forked(self) -> str | None:
        """Why it was not, where it might have been."""

    def ended(self) -> str | None:
        """How it ended, with the end of its output; None while it runs."""

    def events(self) -> list[dict[str, Any]]:
        """What its ranks have reported about their weights (`yr_fastload_native.vllm.reports`)."""

    def is_ready(self) -> list[Phase]:
        """Take down that it answers; what its start took, phase by phase."""

    def stop(self) -> None:
        """Ask it to end, and wait until it and all it started are gone; kill it after the order's ``grace_s``."""


class Launcher(Protocol):
    """Starts servers, on this machine or on others."""

    @property
    def devices(self) -> Devices:
        """The devices that can be given to servers."""

    def prepare(self, order: Order) -> None:
        """Get ready to start some like it, and return at once."""

    def template(self) -> dict[str, Any] | None:
        """The state of what it forks servers from (`GET /status`); None: it does not. Blocks for a moment."""

    def launch(self, order: Order) -> Launched:
        """Start a server, and return before it is ready, within a time limit.

        Raises:
            FastLoadError: It cannot be started; the message says why.
        """

    def close(self) -> None:
        """Release the launcher's resources, after its servers have been stopped. May be called repeatedly."""
