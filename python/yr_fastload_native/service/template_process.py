"""One template, under a keeper of its own, as the service sees it; the other end is `template.process`."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import psutil

from yr_fastload_native.process.scratch import Scratch
from yr_fastload_native.service.learned import Learned
from yr_fastload_native.service.processes import ForkedKeeper, keeper_command, start_keeper
from yr_fastload_native.template import lines
from yr_fastload_native.template.process import Task

__all__ = ["NotForkedError", "Request", "TemplateProcess", "fork_at"]

_ANSWER_S = 10.0
_GRACE_S = 1.0  # it has nothing to tidy up
_END_S = 15.0
_TAIL_BYTES = 2000


class NotForkedError(Exception):
    """There is no server from a template; the message says why.

    Attributes:
        ends: Whether the template is of no use any more.
    """

    def __init__(self, why: str, *, ends: bool = False) -> None:
        super().__init__(why)
        self.ends = ends


@attrs.frozen
class Request:
    """What is to be forked.

    Attributes:
        arguments: Of Python.
        environment: Of the server.
        grace_s: Of its keeper.
        log: Descriptor of what it writes.
        kept: Descriptors that are open as long as its keeper lives.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    grace_s: float
    log: int
    kept: Sequence[int]


def fork_at(path: str, request: Request) -> ForkedKeeper:
    """Have the template that listens at a path fork a keeper, with the server that it keeps.

    Raises:
        NotForkedError: It does not for this request.
        OSError: It does not answer.
        ValueError: Nor does what it says make sense.
    """
    asked = {
        "arguments": list(request.arguments),
        "environment": dict(request.environment),
        "keeper": keeper_command("adopt", request.grace_s),
    }
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(_connected(path, _ANSWER_S))
        lines.send_first(line, asked, (request.log, *request.kept))
        pid = _good(lines.receive(line))["pid"]
        line.sendall(lines.GO)  # a template that stood still, and goes on later, gets none
        _good(lines.receive(line))
        line.settimeout(None)
        stack.pop_all()
    return ForkedKeeper(pid, line)


def _connected(path: str, bound_s: float) -> socket.socket:
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(socket.socket(socket.AF_UNIX))
        line.settimeout(bound_s)
        line.connect(path)
        stack.pop_all()
    return line


class TemplateProcess:
    """One template, under a keeper of its own.

    Attributes:
        socket: Path where it listens once it is ready.
    """

    def __init__(self, number: int, environment: Mapping[str, str], learned: Learned, scratch: Scratch) -> None:
        self._path = scratch.path / f"template-{number}"
        self.socket = str(self._path)
        self._log = self._path.with_suffix(".log")
        self.facts: dict[str, Any] | None = None
        task = self._path.with_suffix(".task")
        ordered = {name: environment.get(name) for name in learned.variables}
        Task(str(self._path), list(learned.modules), ordered).write(task)
        own = {**environment, **learned.variables}
        command = [sys.executable, "-m", "yr_fastload_native.template.process", str(task)]
        with self._log.open("ab") as log:
            self._keeper = start_keeper(
                keeper_command("host", _GRACE_S, command),
                {name: value for name, value in own.items() if value is not None},
                log.fileno(),
                (scratch.descriptor,),
            )

    @property
    def ready(self) -> bool:
        return self._path.exists() and not self.ended

    @property
    def ended(self) -> bool:
        return self._keeper.poll() is not None or self._is_empty()

    def _is_empty(self) -> bool:
        """Whether it has gone and its keeper stays for servers that it has forked."""
        return self.facts is not None and not psutil.pid_exists(self.facts["pid"])

    def why(self) -> str:
        """That it ended, with the last that it wrote."""
        written = ""
        with contextlib.suppress(OSError):
            written = self._log.read_text(errors="replace")[-_TAIL_BYTES:].strip()
        return f"the template ended: {written.splitlines()[-1]}" if written else "the template ended"

    def look(self, bound_s: float = _ANSWER_S) -> dict[str, Any]:
        """Ask it about itself, once.

        Args:
            bound_s: For each step of its answer, seconds.

        Raises:
            OSError: It does not answer.
            ValueError: Nor does it make sense.
        """
        if self.facts is None:
            with _connected(self.socket, bound_s) as line:
                lines.send_first(line, {}, ())
                self.facts = lines.receive(line)
        return self.facts

    def fork(self, request: Request) -> ForkedKeeper:
        """As `fork_at` of this one."""
        return fork_at(self.socket, request)

    def ask_to_end(self) -> None:
        self._keeper.ask_to_end()

    def reaped(self, timeout_s: float = 0.0) -> bool:
        """Whether its keeper has ended too."""
        return self._keeper.wait(timeout_s)

    def kill(self) -> None:
        self._keeper.kill()
        self._keeper.wait(_END_S)


def _good(answer: dict[str, Any]) -> dict[str, Any]:
    if "error" in answer:
        raise NotForkedError(answer["error"], ends=answer.get("ends", False))
    return answer
