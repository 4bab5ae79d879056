"""A server that runs in an actor on some machine, as seen by the service."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from yr_fastload_native.errors import ResourceExhaustedError, UnavailableError
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.local import BEYOND_GRACE_S
from yr_fastload_native.vllm.phases import Phase

__all__ = ["Actor", "ActorGoneError", "RemoteServer", "launch_on", "one_line"]

_ANSWER_S = 5.0
_NETWORK_S = 5.0
_SAID_LINES = 3


class ActorGoneError(Exception):
    """The actor has ended or never started; the message is one line."""


class Actor(Protocol):
    """A `ServerActor` somewhere, reached through its cluster. Its methods can be called from any thread."""

    def ask(self, method: str, bound_s: float, *arguments: Any) -> Any:
        """Call a method of the actor.

        Raises:
            ActorGoneError: The actor is gone.
            TimeoutError: No answer within ``bound_s``; perhaps the actor has no machine yet.
        """

    def kill(self) -> None:
        """End the actor, or keep it from starting. Does nothing if it is gone, and never raises."""


class Templates(Protocol):
    """Those of the cluster's machines (`machine_template.MachineTemplates`)."""

    def find(self, machine: str, imports: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
        """``socket`` of that machine's template, or ``error``. Bounded."""

    def tell(self, machine: str, socket: str, lost: str | None) -> None:
        """Take down that a template has forked a server, or why it is of no use any more."""


def launch_on(
    make: Callable[[], Actor],
    order: Order,
    bound_s: float,
    cluster: Callable[[], str],
    templates: Templates | None = None,
) -> RemoteServer:
    """Have an actor start its server, wherever the cluster puts it.

    Args:
        make: Creates the actor without waiting for it; the actor is killed if this call fails.
        order: The server to start.
        bound_s: Time limit for the cluster to find a machine and start the actor there, seconds.
        cluster: Says what was requested and what is available, if no machine was found in time.
        templates: From which it is forked; None: it is not.

    Raises:
        ResourceExhaustedError: No machine was found.
        UnavailableError: The actor or the server could not be started.
    """
    try:
        actor = make()
    except Exception as error:  # clusters raise anything
        raise UnavailableError(f"the actor of {order.name} cannot be created: {one_line(error)}", op="serve") from None
    try:
        told = _launched(actor, order, bound_s, templates)
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


def _launched(actor: Actor, order: Order, bound_s: float, templates: Templates | None) -> dict[str, Any]:
    """What the actor says of its server; raises as `Actor.ask`."""
    if templates is None:
        return dict(actor.ask("launch", bound_s, order))
    where = actor.ask("where", bound_s, order)
    found = templates.find(where["machine"], order.imports, where["environment"])
    told = dict(actor.ask("launch", bound_s, order, found))
    if told.get("from_template") or told.get("lost"):
        templates.tell(where["machine"], found["socket"], told["lost"])
    return told


class RemoteServer:
    """The server in an actor.

    Args:
        actor: The actor.
        grace_s: From its order.
        told: The answer of its `launch`.
    """

    def __init__(self, actor: Actor, grace_s: float, told: dict[str, Any]) -> None:
        self.pid: int | None = told["pid"]
        self.host: str = told["host"]
        self.machine: str = told.get("machine", "")
        self.is_stopped = False
        self.port: int = told["port"]
        self.uds = None  # not reachable from another machine
        self.from_template = bool(told.get("from_template", False))
        self.not_forked: str | None = told.get("not_forked")
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
                pass  # slow is not dead; the server's health is checked separately
        return self._how

    def events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(ActorGoneError, TimeoutError):
            self._events = self._actor.ask("events", _ANSWER_S)
        return self._events

    def is_ready(self) -> list[Phase]:
        with contextlib.suppress(ActorGoneError, TimeoutError):
            return [Phase(**each) for each in self._actor.ask("is_ready", _ANSWER_S)]
        return []

    def stop(self) -> None:
        self.is_stopped = True
        with contextlib.suppress(ActorGoneError, TimeoutError):
            self._actor.ask("stop", self._grace_s + BEYOND_GRACE_S + _NETWORK_S)
        self._actor.kill()


def one_line(error: BaseException) -> str:
    """The end of an error's message, the most useful part if it contains a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " | ".join(lines[-_SAID_LINES:]) or type(error).__name__
