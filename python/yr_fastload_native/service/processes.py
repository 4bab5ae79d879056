"""A keeper, as whoever has it started holds it: started as a program, or forked by a template."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from yr_fastload_native.process import keeper

__all__ = ["ForkedKeeper", "KeeperProcess", "StartedKeeper", "keeper_command", "start_keeper"]

_KILLED = 128 + signal.SIGKILL


def keeper_command(kind: str, grace_s: float, command: Sequence[str] = ()) -> list[str]:
    """That has a `keeper` look after a command, in one of its ways."""
    return [
        sys.executable,
        "-I",
        str(keeper.__file__),
        str(Path(psutil.__file__).parents[1]),
        kind,
        str(grace_s),
        *command,
    ]


class KeeperProcess(Protocol):
    """A keeper, and what it keeps."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """The status of what it kept; None while it runs."""

    def ask_to_end(self) -> None:
        """End the line to it."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within so many seconds."""

    def kill(self) -> None: ...

    def close(self) -> None:
        """Let go of it, once it has ended. Twice is as once."""


class StartedKeeper:
    """A child of this process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lock = threading.Lock()
        self.pid = process.pid

    def poll(self) -> int | None:
        with self._lock:
            return self._process.poll()

    def ask_to_end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout_s: float) -> bool:
        with self._lock, contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self._process.returncode is not None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.ask_to_end()


class ForkedKeeper:
    """A child of nobody that this process knows: its line says its status, and ends with it.

    Args:
        pid: Of it.
        line: To it, on which nothing but its status is to come any more.
    """

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self._line = line
        self._lock = threading.Lock()
        self._status: int | None = None

    def poll(self) -> int | None:
        self.wait(0.0)
        return self._status

    def ask_to_end(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)

    def wait(self, timeout_s: float) -> bool:
        with self._lock:
            if self._status is None:
                self._line.settimeout(timeout_s)
                try:
                    said = self._line.recv(1)
                except (BlockingIOError, TimeoutError):
                    return False
                except OSError:
                    said = b""
                self._status = said[0] if said else _KILLED
        return True

    def kill(self) -> None:
        if self._status is None:  # as long as its line is open it lives, and its pid is nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        self._line.close()


def start_keeper(
    command: Sequence[str], environment: Mapping[str, str], log: int, kept: Sequence[int]
) -> StartedKeeper:
    """Start one as a program.

    Args:
        command: Of it.
        environment: Of it, and of what it keeps.
        log: Descriptor of what it writes.
        kept: Descriptors that stay open as long as it lives.

    Raises:
        OSError: It cannot be started.
    """
    return StartedKeeper(
        subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,  # ends with this process, however that ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=kept,
            start_new_session=True,  # Ctrl-C in the terminal is for the service, which ends them in order
        )
    )
