"""Child processes of a command, and a child's way to its parent.

They speak lines of JSON: messages come on stdin, events go out on stdout, and the end of stdin means: leave.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import click

from yr_fastload_native.errors import FastLoadError, TransferTimeoutError

__all__ = ["Parent", "Process", "main"]

_Progress = Callable[[int, int], None]

_GRACE_S = 10.0
_PROGRESS_S = 0.05
_STDERR_TAIL_BYTES = 4000


class Process:
    """A fresh interpreter that runs a module in some role; it does not outlive the ``with`` block.

    Args:
        op: The command, for messages.
        module: Its ``main`` is called with the role.
        role: What it is to do.
        task: The first message to it.
        environment: Of the process; by default that of this one.
        group: Whether it starts processes of its own, which are to end with it.

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
    ) -> None:
        self._group = group
        self._op = op
        self._role = role
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a file, since nobody reads a pipe while it runs
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            # It finds what this process finds: -m alone would put the current directory first.
            env=dict(environment or os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends its processes in order
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pump = threading.Thread(target=self._read_lines, name=f"child-{role}", daemon=True)
        self._pump.start()
        self.tell(task)

    def tell(self, message: object) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the next expect() says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def expect(self, event: str, timeout_s: float, progress: _Progress | None = None) -> dict[str, Any]:
        """Wait for an event and return its facts; events of progress before it go to ``progress``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TransferTimeoutError(
                    f"the {self._role} did not get to {event!r} within {timeout_s:.0f} s", op=self._op
                ) from None
            if not line:
                raise self._death()
            facts: dict[str, Any] = json.loads(line)
            kind = facts.pop("event")
            if kind == "error":
                classes = {error.code: error for error in FastLoadError.__subclasses__()}
                raise classes.get(facts["code"], FastLoadError)(f"{self._role}: {facts['message']}", op=self._op)
            if kind == event:
                return facts
            if progress is not None:
                progress(facts["done"], facts["total"])

    def tell_to_end(self) -> None:
        """Let it leave in order."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Let it leave in order, and wait until it has."""
        self.tell_to_end()
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            raise TransferTimeoutError(f"the {self._role} did not end within {_GRACE_S:.0f} s", op=self._op) from None
        if status:
            raise self._death()

    def leave(self) -> None:
        """Let it leave in order, or however it can: nobody asks any more."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)

    def kill(self) -> None:
        """End it at once, with the processes that it started if it leads a group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL) if self._group else self._process.kill()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._reap()
        if self._group:
            # It leads a session of its own: whoever is still in there was started by it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._pump.join()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _reap(self) -> int:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _death(self) -> FastLoadError:
        status = self._reap()
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        click.echo(self._stderr.read().decode(errors="replace"), err=True, nl=False)
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return FastLoadError(f"the {self._role} ended with {how}; what it wrote is above", op=self._op)


class Parent:
    """The way to the parent; what libraries print on stdout goes to stderr instead."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._last_progress = 0.0

    def send(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}), file=self._events, flush=True)

    def send_progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_S:  # a message a tensor would slow down what is measured
            self._last_progress = now
            self.send("progress", done=done, total=total)

    def wait(self) -> Any:
        """The next message, None at the end."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None


def main(roles: Mapping[str, Callable[[Any, Parent], None]]) -> None:
    """Run the role that this process was started in; an error goes to the parent."""
    faulthandler.enable()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a publication is withdrawn
    parent = Parent()
    try:
        roles[sys.argv[1]](parent.wait(), parent)
    except FastLoadError as error:
        parent.send("error", code=error.code, message=str(error))
        sys.exit(1)
