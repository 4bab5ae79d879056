"""A server that an actor of a cluster has on its machine, as the service sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from yr_fastload_native.errors import ResourceExhaustedError, UnavailableError
from yr_fastload_native.service.instances import Order
from yr_fastload_native.service.local import BEYOND_GRACE_S

__all__ = ["Actor", "ActorGoneError", "RemoteServer", "launch_on", "one_line"]

_ANSWER_S = 5.0
_NETWORK_S = 5.0
_SAID_LINES = 3


class ActorGoneError(Exception):
    """The actor has ended, or never came to be; the message is one line."""


class Actor(Protocol):
    """A `ServerActor` somewhere, as its cluster lets it be reached. Its methods may be called from any thread."""

    def ask(self, method: str, bound_s: float, *arguments: Any) -> Any:
        """What a method answers.

        Raises:
            ActorGoneError: There is nobody to answer.
            TimeoutError: No answer within ``bound_s``; the actor may not even have a machine yet.
        """

    def kill(self) -> None:
        """End it, or see to it that it never starts; nothing if it is gone. Does not raise."""


def launch_on(make: Callable[[], Actor], order: Order, bound_s: float, cluster: Callable[[], str]) -> RemoteServer:
    """Have an actor start its server, wherever the cluster puts it.

    Args:
        make: Makes the actor, and does not wait for it; it is killed if this fails.
        order: What it is to start.
        bound_s: For the cluster to find a machine and to start the actor there.
        cluster: Tells what was asked for and what there is, once there was no machine in time.

    Raises:
        ResourceExhaustedError: There was none.
        UnavailableError: The actor or the server could not be started.
    """
    try:
        actor = make()
    except Exception as error:  # whatever clusters raise
        raise UnavailableError(f"the actor of {order.name} cannot be made: {one_line(error)}", op="serve") from None
    try:
        told = actor.ask("launch", bound_s, order)
        if "error" in told:
            raise UnavailableError(told["error"], op="serve")
    except TimeoutError:
        actor.kill()
        raise ResourceExhaustedError(
            f"no machine for {order.name} within {bound_s:g} s: {cluster()}", op="serve"
        ) from None
    except ActorGoneError as error:
        actor.kill()
        raise UnavailableError(f"the actor of {order.name} cannot be started: {error}", op="serve") from None
    except BaseException:
        actor.kill()
        raise
    return RemoteServer(actor, order.grace_s, told)


class RemoteServer:
    """The server of an actor.

    Args:
        actor: That has it.
        grace_s: Of its order.
        told: What its `launch` answered.
    """

    def __init__(self, actor: Actor, grace_s: float, told: dict[str, Any]) -> None:
        self.pid: int | None = told["pid"]
        self.host: str = told["host"]
        self.port: int = told["port"]
        self.uds = None  # nobody on another machine gets at one
        self._actor = actor
        self._grace_s = grace_s
        self._how: str | None = None
        self._events: list[dict[str, Any]] = []

    def ended(self) -> str | None:
        if self._how is None:
            try:
                self._how = self._actor.ask("ended", _ANSWER_S)
            except ActorGoneError as error:
                self._how = f"its actor ended: {error}"
            except TimeoutError:
                pass  # slow is not dead; whether the server is well is asked too
        return self._how

    def events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(ActorGoneError, TimeoutError):
            self._events = self._actor.ask("events", _ANSWER_S)
        return self._events

    def stop(self) -> None:
        with contextlib.suppress(ActorGoneError, TimeoutError):
            self._actor.ask("stop", self._grace_s + BEYOND_GRACE_S + _NETWORK_S)
        self._actor.kill()


def one_line(error: BaseException) -> str:
    """The end of an error's message, which tells most where it has the traceback of another machine."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " | ".join(lines[-_SAID_LINES:]) or type(error).__name__
