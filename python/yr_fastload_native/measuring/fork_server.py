"""Processes that are forked from one that has imported what takes long: ready in a tenth of a second.

What is imported ahead must start no thread, and this package is imported after the fork: threads of openYuanrong do not
survive one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any, NoReturn

from yr_fastload_native.errors import FastLoadError, TransferTimeoutError

__all__ = ["ForkServer", "Forked"]

_PR_SET_PDEATHSIG = 1
_START_S = 120.0  # of the imports, on a busy machine
_END_S = 10.0
_MESSAGE_BYTES = 1 << 20


class ForkServer:
    """What processes are forked from; they end when it does, and it when its owner does.

    Args:
        imports: Modules that it imports ahead.
        environment: What only a new program looks at, such as ``LD_PRELOAD``, is that of all processes.
    """

    def __init__(self, imports: Sequence[str], environment: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_START_S)
        self._one_at_a_time = threading.Lock()
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *imports],
                stdin=theirs.fileno(),
                env={**environment, **path},
                start_new_session=True,  # Ctrl-C in the terminal is for its owner
            )

    def fork(
        self, module: str, role: str, environment: Mapping[str, str], channel: socket.socket, log: IO[bytes]
    ) -> Forked:
        """A process that runs a module as ``python -m MODULE ROLE`` would. Any thread may ask for one.

        Args:
            module: What it runs.
            role: Its argument.
            environment: Of the process, as far as it is read after its start.
            channel: Its stdin and stdout.
            log: Its stderr.

        Raises:
            FastLoadError: The server has ended.
            TransferTimeoutError: It still imports.
        """
        request = {"module": module, "role": role, "environment": dict(environment)}
        return Forked(self, self._ask(request, channel.fileno(), log.fileno()))

    def status(self, pid: int) -> int:
        """The exit status of a process that has ended; can be asked once."""
        return self._ask({"ended": pid})

    def _ask(self, request: Mapping[str, Any], *descriptors: int) -> int:
        try:
            with self._one_at_a_time:
                socket.send_fds(self._channel, [json.dumps(request).encode()], descriptors)
                answer = self._channel.recv(_MESSAGE_BYTES)
        except TimeoutError:
            raise TransferTimeoutError(f"nothing was forked within {_START_S:.0f} s", op="fork") from None
        except OSError:
            answer = b""
        if not answer:
            raise FastLoadError("the process that others are forked from has ended", op="fork")
        return int(answer)

    def close(self) -> None:
        """End it, and with it what was forked from it. Idempotent."""
        self._channel.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_S)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Forked:
    """As much of a `subprocess.Popen` as is needed of a process that was forked from the server."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server
        self._descriptor = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, timeout: float) -> int:
        """Its exit status; negative: the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: It has not ended.
        """
        if self._status is None:
            ended, _, _ = select.select([self._descriptor], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            try:
                self._status = self._server.status(self.pid)
            except FastLoadError:
                self._status = -signal.SIGKILL  # with the server
            os.close(self._descriptor)
        return self._status

    def send_signal(self, number: int) -> None:
        if self._status is None:
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _serve(imports: Sequence[str]) -> None:
    for name in imports:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a process would go over all that was imported, and copy its pages
    owner = socket.socket(fileno=os.dup(0))
    while True:
        message, descriptors, _, _ = socket.recv_fds(owner, _MESSAGE_BYTES, 2)
        if not message:
            return
        request = json.loads(message)
        if "ended" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["ended"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                owner.close()
                _become(request, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        owner.send(str(answer).encode())


def _become(request: Mapping[str, Any], channel: int, log: int) -> NoReturn:
    status = 1

    def leave() -> None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # a thread of openYuanrong may sleep for a minute before it lets the process go

    atexit.register(leave)  # after all that is registered from here on
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        for descriptor, of in ((0, channel), (1, channel), (2, log)):
            os.dup2(of, descriptor)
        os.close(channel)
        os.close(log)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = [request["role"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1:])
