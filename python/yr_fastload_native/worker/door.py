"""How a user's processes find the worker of a home: through an abstract Unix socket, which needs no file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker import watcher

__all__ = ["Door", "is_open", "was_told"]

_BACKLOG = 4096  # processes that start together; the kernel caps it
_PAUSE_S = 0.02
_MAX_ANSWER = 65536


class Door:
    """The socket with one name. The process that can bind it starts the worker; afterwards a `Watcher` answers there.

    The name contains the user and the mount namespace, because a worker whose sockets cannot be seen from here cannot
    be used. Each network namespace has its own doors, just as it has its own loopback.

    Args:
        key: What distinguishes the workers of one user.
        failed: Creates the error for a worker that was not announced by a deadline.
    """

    def __init__(self, key: str, failed: Callable[[], UnavailableError]) -> None:
        try:
            namespace = os.stat("/proc/self/ns/mnt").st_ino
        except OSError:
            namespace = 0
        digest = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
        self._name = f"\0yr-fastload-{os.getuid()}-{namespace}-{digest}"
        self._failed = failed

    def bind(self) -> socket.socket | None:
        """Take the name, and with it the duty to start a worker; None if another process has it."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            listener.bind(self._name)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        return listener

    def say(self, request: str, deadline: float) -> socket.socket | None:
        """Connect and send a request; None if nobody listens.

        Raises:
            UnavailableError: Nobody accepted it by the deadline, or another user's process has the name.
        """
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.setblocking(False)
                connection.connect(self._name)
                self._check(connection)
                connection.send(request.encode())
            except BlockingIOError:  # the backlog is full
                connection.close()
            except OSError as error:
                connection.close()
                if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                    raise
                return None
            except BaseException:
                connection.close()
                raise
            else:
                return connection
            if time.monotonic() > deadline:
                raise self._failed()
            time.sleep(_PAUSE_S)

    def hear(self, connection: socket.socket, deadline: float) -> dict[str, Any] | None:
        """The answer; None if the process that would have given it has ended.

        Raises:
            UnavailableError: No answer by the deadline.
        """
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            answer = connection.recv(_MAX_ANSWER)
        except TimeoutError:
            raise self._failed() from None
        except OSError:
            return None
        return msgspec.json.decode(answer, type=dict[str, Any]) if answer else None

    def ask(self, request: str, deadline: float) -> dict[str, Any] | None:
        """Send a request on a new connection and return the answer; None if nobody answers.

        Raises:
            UnavailableError: Somebody listens but did not answer by the deadline.
        """
        connection = self.say(request, deadline)
        if connection is None:
            return None
        with connection:
            return self.hear(connection, deadline)

    def leave_to_watcher(
        self,
        listener: socket.socket,
        lock: int,
        status: dict[str, Any],
        *,
        data: Path,
        adopted: bool,
        tells: socket.socket | None = None,
    ) -> None:
        """Start a detached process that answers from now on, and that ends the worker after its last user.

        Args:
            listener: From `bind`.
            lock: A descriptor that the process keeps open.
            status: Of the worker, plain types.
            data: Removed with the worker.
            adopted: Whether the worker is older than this door.
            tells: Where it says to other machines how full the pool is; None: nowhere.
        """
        shown = None if tells is None else tells.fileno()
        facts = msgspec.json.encode({"status": status, "data": str(data), "adopted": adopted, "tells": shown}).decode()
        script = str(Path(watcher.__file__).resolve())
        subprocess.run(
            [sys.executable, "-I", "-S", script, str(status["pid"]), str(status["start_ticks"]), facts],
            stdin=listener.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock, *filter(None, [shown])),
            cwd="/",
            check=True,
        )

    def _check(self, connection: socket.socket) -> None:
        pid, uid = watcher.peer(connection)
        if uid != os.getuid():
            raise UnavailableError(
                f"the name of the local worker is taken by pid {pid} of user {uid}; end that process, or name a worker "
                "by DS_WORKER_ADDR",
                op="worker start",
            )


def is_open(connection: int) -> bool:
    """Whether a user's worker and its watcher are alive: a user receives nothing until they end."""
    return _pending(connection) is None


def was_told(connection: int) -> bool:
    """Whether a user was told that somebody stopped its worker on purpose."""
    return bool(_pending(connection))


def _pending(connection: int) -> bytes | None:
    """What was received: empty after the end, None while nothing has arrived."""
    with socket.socket(fileno=os.dup(connection)) as copy, contextlib.suppress(BlockingIOError):
        return copy.recv(_MAX_ANSWER, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return None
