"""Child processes that do what they are told, and a child's way to its parent: of commands, benchmarks and tests.

They speak lines of JSON over one socket, which is the child's stdin and stdout: messages go in, events come out, and
the end of messages means: leave. A call is a message that is answered by one event (`Process.call`, `serve`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from yr_fastload_native.errors import FastLoadError, TransferTimeoutError
from yr_fastload_native.measuring.fork_server import Forked, ForkServer

__all__ = ["Parent", "Process", "main", "serve"]

_Progress = Callable[[int, int], None]

_GRACE_S = 10.0
_SEND_S = 60.0  # until a process reads what it is told
_PROGRESS_S = 0.05
_STDERR_TAIL_BYTES = 4000
_ANSWER = "answer"


class Process:
    """A process that runs a module in some role; it does not outlive the ``with`` block.

    Args:
        op: The command, for messages.
        module: Run as ``python -m`` would: it calls `main` or `serve`.
        role: What it is to do.
        task: The first message to it.
        environment: Of the process; by default that of this one.
        group: Whether it starts processes of its own, which are to end with it.
        server: What it is forked from; None for a fresh interpreter.

    Raises:
        FastLoadError: From any method: what the process failed with, of the class it had there.
        TransferTimeoutError: From any method: the process did not answer in time.
    """

    def __init__(
        self,
        op: str,
        module: str,
        role: str,
        task: object,
        environment: Mapping[str, str] | None = None,
        *,
        group: bool = False,
        server: ForkServer | None = None,
    ) -> None:
        self._group = group
        self._op = op
        self._role = role
        # It finds what this process finds: -m alone would put the current directory first.
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
        environment = dict(os.environ if environment is None else environment) | path
        self._received = b""
        self._process: subprocess.Popen[bytes] | Forked
        with contextlib.ExitStack() as stack:
            self._stderr = stack.enter_context(tempfile.TemporaryFile("a+b"))  # nobody reads a pipe while it runs
            self._channel, theirs = socket.socketpair()
            self._channel.settimeout(_SEND_S)
            stack.enter_context(self._channel)
            with theirs:
                if server is None:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", module, role],
                        stdin=theirs.fileno(),
                        stdout=theirs.fileno(),
                        stderr=self._stderr,
                        env=environment,
                        start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends it in order
                    )
                else:
                    self._process = server.fork(module, role, environment, theirs, self._stderr)
            stack.pop_all()
        self.tell(task)

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- messages and events --------------------------------------------------------------------------------------

    def tell(self, message: object) -> None:
        """Send one message."""
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the next expect() says why
        except TimeoutError:
            raise TransferTimeoutError(f"the {self._role} does not read what it is told", op=self._op) from None

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event; None if none comes in time.

        Raises:
            EOFError: The process has ended.
        """
        end = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._channel], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            try:
                more = self._channel.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                raise EOFError(f"the {self._role} has ended")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def expect(self, event: str, timeout_s: float, progress: _Progress | None = None) -> dict[str, Any]:
        """Wait for an event and return its facts; events of progress before it go to ``progress``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                facts = self.receive(deadline - time.monotonic())
            except EOFError:
                raise self._death() from None
            if facts is None:
                raise TransferTimeoutError(
                    f"the {self._role} did not get to {event!r} within {timeout_s:.0f} s", op=self._op
                )
            kind = facts.pop("event")
            if kind == "error":
                classes = {error.code: error for error in FastLoadError.__subclasses__()}
                raise classes.get(facts["code"], FastLoadError)(f"{self._role}: {facts['message']}", op=self._op)
            if kind == event:
                return facts
            if progress is not None:
                progress(facts["done"], facts["total"])

    # -- calls, of a process that serves them ---------------------------------------------------------------------

    def start(self, call: str, **arguments: Any) -> None:
        """Begin a call; one at a time."""
        self.tell({"call": call, **arguments})

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the call that was begun."""
        return self.expect(_ANSWER, timeout_s)

    def call(self, call: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        self.start(call, **arguments)
        return self.finish(timeout_s)

    # -- its end --------------------------------------------------------------------------------------------------

    def tell_to_end(self) -> None:
        """Let it leave in order."""
        with contextlib.suppress(OSError):  # it has left
            self._channel.shutdown(socket.SHUT_WR)

    def wait(self, timeout_s: float) -> int:
        """Its exit status once it has ended, as `subprocess.Popen.returncode` has it."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TransferTimeoutError(f"the {self._role} did not end within {timeout_s:.0f} s", op=self._op) from None

    def end(self) -> None:
        """Let it leave in order, and wait until it has."""
        self.tell_to_end()
        if self.wait(_GRACE_S):
            raise self._death()

    def leave(self) -> None:
        """Let it leave in order, or however it can: nobody asks any more."""
        self.tell_to_end()
        with contextlib.suppress(TransferTimeoutError):
            self.wait(_GRACE_S)

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with the processes that it started if it leads a group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL) if self._group else self._process.kill()

    def close(self) -> None:
        """Have it end, and wait until it has. Idempotent."""
        if self._channel.fileno() < 0:
            return
        self.signal(signal.SIGTERM)
        self._reap()
        if self._group:
            # It leads a session of its own: whoever is still in there was started by it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._channel.close()
        self._stderr.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def tail(self) -> str:
        """The end of what it wrote to stderr, at most 4,000 bytes."""
        log = self._stderr.fileno()
        begin = max(0, os.fstat(log).st_size - _STDERR_TAIL_BYTES)
        return os.pread(log, _STDERR_TAIL_BYTES, begin).decode(errors="replace")

    def _reap(self) -> int:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_GRACE_S)

    def _death(self) -> FastLoadError:
        status = self._reap()
        sys.stderr.write(self.tail())
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return FastLoadError(f"the {self._role} ended with {how}; what it wrote is above", op=self._op)


class Parent:
    """The way to the parent; what libraries print on stdout goes to stderr instead."""

    def __init__(self) -> None:
        # Processes that this one starts have neither: the parent is to see its end, not theirs.
        self._messages, self._events = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._last_progress = 0.0

    def send(self, event: str, **facts: object) -> None:
        """Tell one event. Waits for a parent that has left some hundred unread."""
        print(json.dumps({"event": event, **facts}), file=self._events, flush=True)

    def send_progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_S:  # a message a tensor would slow down what is measured
            self._last_progress = now
            self.send("progress", done=done, total=total)

    def wait(self) -> Any:
        """The next message, None at the end."""
        line = self._messages.readline()
        return json.loads(line) if line else None


def main(roles: Mapping[str, Callable[[Any, Parent], None]]) -> None:
    """Run the role that this process was started in; an error goes to the parent."""
    faulthandler.enable()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a publication is withdrawn
    parent = Parent()
    with _telling_errors(parent):
        roles[sys.argv[1]](parent.wait(), parent)


def serve(make: Callable[[Any], object]) -> None:
    """Answer calls by the methods of an object, until the parent has no more; an error goes to the parent.

    SIGTERM is left to the package, which withdraws what is published and ends the process.

    Args:
        make: Makes the object of the first message. Its methods return their answers, mappings.
    """
    faulthandler.enable()
    parent = Parent()
    with _telling_errors(parent):
        commands = make(parent.wait())
        while (asked := parent.wait()) is not None:
            parent.send(_ANSWER, **getattr(commands, asked.pop("call"))(**asked))


@contextlib.contextmanager
def _telling_errors(parent: Parent) -> Iterator[None]:
    try:
        yield
    except FastLoadError as error:
        parent.send("error", code=error.code, message=str(error))
        sys.exit(1)
