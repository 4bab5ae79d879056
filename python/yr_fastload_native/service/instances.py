"""What a launcher makes: one running vLLM server, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

__all__ = ["Launched", "Launcher", "Order"]


@attrs.frozen
class Order:
    """What is to be started.

    Attributes:
        name: Of the instance, in lines of its log.
        command: ``--host`` and ``--port`` are added to it.
        environment: Beside that of the process that starts it.
        grace_s: From being asked to end to being killed, seconds.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float


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

    def ended(self) -> str | None:
        """How it ended, with the last of what it wrote; None while it runs."""

    def events(self) -> list[dict[str, Any]]:
        """What its ranks said of their weights so far (`yr_fastload_native.vllm.reports`)."""

    def stop(self) -> None:
        """Ask it to end, and wait until it and all that it started are gone; killed after the order's grace."""


class Launcher(Protocol):
    """Starts servers, on this machine or on others."""

    def launch(self, order: Order) -> Launched:
        """Start one, and return before it is ready.

        Raises:
            FastLoadError: It cannot be started; the message says why.
        """

    def close(self) -> None:
        """Let go of what the launcher itself holds; its servers have been stopped."""
