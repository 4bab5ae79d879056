"""Servers as processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.process.scratch import Scratch
from yr_fastload_native.service.launcher import Devices, Order
from yr_fastload_native.service.machine import Lent, MachineDevices
from yr_fastload_native.settings import ENVIRONMENT_PREFIX
from yr_fastload_native.vllm import reports

__all__ = ["BEYOND_GRACE_S", "LocalLauncher", "LocalServer", "keeper_command"]

_TAIL_BYTES = 2000
_NOTE_EVERY_S = 4.0  # how often its shared memory is recorded; a fleet asks for events every 5 s once it is ready
_SOCKET_CHARS = 107  # sockaddr_un
BEYOND_GRACE_S = 15.0  # a keeper's own time limit for killing, plus some


class LocalLauncher:
    """Starts subprocesses, each under a `keeper`.

    Args:
        logs: Directory for the logs; None: a temporary directory that is removed with the launcher.
        host: Address on which the servers listen.
        machine: Assigns devices; by default nothing is assigned, and servers see the devices of this process.
    """

    def __init__(
        self, logs: Path | None = None, host: str = "127.0.0.1", machine: MachineDevices | None = None
    ) -> None:
        self._host = host
        self._machine = machine or MachineDevices()
        self._scratch = Scratch("serve")
        self._logs = logs or self._scratch.path
        self._logs.mkdir(parents=True, exist_ok=True)

    @property
    def devices(self) -> Devices:
        return self._machine.devices

    def launch(self, order: Order) -> LocalServer:
        """Raises:
        ResourceExhaustedError: The devices are in use.
        UnavailableError: It cannot be started.
        """
        lent = self._machine.lend(order.devices)
        try:
            return LocalServer(order, self._logs, self._scratch, self._host, lent)
        except BaseException:
            lent.give_back()
            raise

    def close(self) -> None:
        self._scratch.close()


class LocalServer:
    """One subprocess with a server.

    Raises:
        UnavailableError: It cannot be started.
    """

    def __init__(self, order: Order, logs: Path, scratch: Scratch, host: str, lent: Lent) -> None:
        self.host = host
        self.port = _free_port(host)
        self._log = logs / f"{order.name}.log"
        self._report = scratch.path / f"{order.name}.report"
        self._report.unlink(missing_ok=True)
        self.uds = order.uds
        where = ["--host", host, "--port", str(self.port)]
        if self.uds is not None:
            _make_room(self.uds)
            where = ["--uds", self.uds]
        command = [sys.executable, *order.arguments, *where]
        environment = {
            "PYTHONSAFEPATH": "1",  # as for an installed command: -m would put the current directory first
            **order.defaults,
            **_inherited(),
            **order.environment,
            **lent.environment,
            ENVIRONMENT_PREFIX + "REPORT": str(self._report),
            "VLLM_RPC_BASE_PATH": str(scratch.path),  # where it leaves sockets if it is killed
        }
        with self._log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    keeper_command(order.grace_s, command),
                    stdin=subprocess.PIPE,  # ends with this process, however that ends
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=(scratch.descriptor,),  # also in use until the keeper has gone
                    start_new_session=True,  # so that Ctrl-C reaches only the service, which stops servers in order
                )
            except OSError as error:
                raise UnavailableError(f"cannot start {order.name}: {error}", op="serve") from None
        self._name = order.name
        self._scratch = scratch
        self._noted_s = time.monotonic()
        self._grace_s = order.grace_s
        self._lent = lent
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
        with self._lock:
            status = self._process.poll()
        if status is None:
            return None
        number = -status if status < 0 else status - 128
        how = f"status {status}"
        with contextlib.suppress(ValueError):
            how = signal.Signals(number).name
        return f"ended with {how}; the end of {self._log}: {self._tail()}"

    def events(self) -> list[dict[str, Any]]:
        if time.monotonic() - self._noted_s > _NOTE_EVERY_S:
            self._noted_s = time.monotonic()
            with contextlib.suppress(psutil.Error):
                self._scratch.note_shared(
                    self._name, [each.pid for each in psutil.Process(self.pid).children(recursive=True)]
                )
        return reports.events(self._report)

    def stop(self) -> None:
        assert self._process.stdin is not None
        with self._lock:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(self._grace_s + BEYOND_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._report.unlink(missing_ok=True)
        self._scratch.remove_shared(self._name)
        if self.uds is not None:
            Path(self.uds).unlink(missing_ok=True)
        self._lent.give_back()

    def _tail(self) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError as error:
            return str(error)
        return " | ".join(lines[-3:])


def keeper_command(grace_s: float, command: Sequence[str]) -> list[str]:
    """A command that runs another one under a `keeper`."""
    keeper = Path(__file__).with_name("keeper.py")
    return [sys.executable, "-I", str(keeper), str(Path(psutil.__file__).parents[1]), str(grace_s), *command]


def _inherited() -> dict[str, str]:
    """The variables that a server inherits.

    A Kubernetes service named vllm sets VLLM_PORT=tcp://..., which makes every vLLM exit.
    """
    return {key: value for key, value in os.environ.items() if not (key == "VLLM_PORT" and value.startswith("tcp://"))}


def _make_room(uds: str) -> None:
    """Remove a socket that a server left behind.

    Raises:
        UnavailableError: A server uses it, it is not a socket, or its path is too long for one.
    """
    path = Path(uds)
    excess = len(os.fsencode(uds)) - _SOCKET_CHARS
    if excess > 0:
        raise UnavailableError(f"{uds} is {excess} characters too long for a socket; use a shorter --uds", op="serve")
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        if not path.is_socket() or not probe.connect_ex(uds):
            raise UnavailableError(f"{uds} is in use; use another --uds", op="serve")
    path.unlink(missing_ok=True)


def _free_port(host: str) -> int:
    family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
