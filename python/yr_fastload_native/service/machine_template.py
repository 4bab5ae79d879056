"""The template of one machine of a cluster: in an actor of its own, which outlives the actors of servers there.

The service (`MachineTemplates`) has one for each machine on which a server starts. The actor of that server asks it, by
way of the service, where the template listens, and has its server forked there itself (`SharedTemplate`): descriptors
go from process to process on one machine only.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from yr_fastload_native.process.scratch import Scratch
from yr_fastload_native.service.learned import Learned
from yr_fastload_native.service.processes import ForkedKeeper
from yr_fastload_native.service.remote import Actor, ActorGoneError
from yr_fastload_native.service.template import IMPORT_S, Template
from yr_fastload_native.service.template_process import NotForkedError, Request, fork_at
from yr_fastload_native.template.telling import Told

__all__ = ["MachineTemplate", "MachineTemplates", "SharedTemplate"]

_NETWORK_S = 5.0
_STATUS_S = 5.0
_END_S = 20.0


class MachineTemplate:
    """What runs in the actor. Arguments and results are plain data; its methods may be called at the same time."""

    def __init__(self) -> None:
        self._scratch = Scratch("serve")
        self._lock = threading.Lock()
        self._template: Template | None = None

    def find(self, imports: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
        """``socket`` of a template that has imported, or ``error`` with the reason why there is none. Bounded.

        Args:
            imports: For the first one that this machine ever has.
            environment: Of servers. That of the first call counts; where a later one differs, nothing is forked.
        """
        with self._lock:
            if self._template is None:
                self._template = Template(self._scratch, imports, environment)
        known = Learned.remembered(())  # by actors of servers, meanwhile
        self._template.learn(Told(known.modules, known.variables))
        try:
            return {"socket": self._template.socket()}
        except NotForkedError as error:
            return {"error": str(error)}

    def tell(self, socket: str, lost: str | None) -> None:
        """Take down that a template has forked a server, or why it is of no use any more."""
        if self._template is not None:
            self._template.tell(socket, lost)

    def status(self) -> dict[str, Any] | None:
        return None if self._template is None else self._template.status()

    def stop(self) -> None:
        if self._template is not None:
            self._template.close()
        self._scratch.close()


class SharedTemplate:
    """A machine's template as the actor of a server there sees it.

    Attributes:
        lost: Why it is of no use any more; None: it may be.

    Args:
        found: What `MachineTemplate.find` answered.
    """

    def __init__(self, found: Mapping[str, str]) -> None:
        self._found = found
        self.lost: str | None = None

    def fork(self, request: Request) -> ForkedKeeper:
        """Raises:
        NotForkedError: There is none, and it has to be started as ever. Bounded.
        """
        if "error" in self._found:
            raise NotForkedError(self._found["error"])
        try:
            return fork_at(self._found["socket"], request)
        except NotForkedError as error:
            self.lost = str(error) if error.ends else None
            raise
        except (OSError, ValueError, KeyError) as error:
            self.lost = f"the template does not answer: {type(error).__name__}: {error}"
            raise NotForkedError(self.lost) from None

    def learn(self, told: Told) -> None:
        """Leave what a server told where the machine's next template finds it."""
        known = Learned.remembered(())
        more = known.with_told(told)
        if more is not known:
            more.remember()


class MachineTemplates:
    """The templates of all machines, as the service sees them. Its methods may be called from any thread.

    Args:
        make: Creates the actor of a machine, without waiting for it.
    """

    def __init__(self, make: Callable[[str], Actor]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._actors: dict[str, Actor] = {}

    def find(self, machine: str, imports: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
        """As `MachineTemplate.find` on that machine."""
        try:
            with self._lock:
                actor = self._actors.get(machine) or self._make(machine)
                self._actors[machine] = actor
            return dict(actor.ask("find", IMPORT_S + _NETWORK_S, tuple(imports), dict(environment)))
        except ActorGoneError as error:
            self._forget(machine)
            return {"error": f"the actor of the template ended: {error}"}
        except TimeoutError:
            return {"error": "the actor of the template does not answer"}
        except Exception as error:  # clusters raise anything, and an ordinary start needs no template
            return {"error": f"the actor of the template cannot be created: {type(error).__name__}: {error}"}

    def tell(self, machine: str, socket: str, lost: str | None) -> None:
        """As `MachineTemplate.tell` on that machine."""
        with contextlib.suppress(KeyError, ActorGoneError, TimeoutError):
            self._actors[machine].ask("tell", _NETWORK_S, socket, lost)

    def status(self) -> dict[str, Any]:
        """For ``GET /status``: of each machine, None where it does not say."""
        with self._lock:
            actors = dict(self._actors)
        found: dict[str, Any] = {}
        for machine, actor in actors.items():
            found[machine] = None
            with contextlib.suppress(ActorGoneError, TimeoutError):
                found[machine] = actor.ask("status", _STATUS_S)
        return {"machines": found}

    def close(self) -> None:
        """End them, once servers have. Bounded; twice is as once."""
        with self._lock:
            actors, self._actors = self._actors, {}
        for actor in actors.values():
            with contextlib.suppress(ActorGoneError, TimeoutError):
                actor.ask("stop", _END_S)
            actor.kill()

    def _forget(self, machine: str) -> None:
        with self._lock:
            actor = self._actors.pop(machine, None)
        if actor is not None:
            actor.kill()
