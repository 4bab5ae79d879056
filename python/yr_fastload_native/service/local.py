"""Servers as processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.process.scratch import Scratch
from yr_fastload_native.service.launcher import Devices, Order
from yr_fastload_native.service.machine import Lent, MachineDevices
from yr_fastload_native.service.model_files import at_hand
from yr_fastload_native.service.processes import KeeperProcess, keeper_command, start_keeper
from yr_fastload_native.service.template import Template
from yr_fastload_native.service.template_process import NotForkedError, Request
from yr_fastload_native.settings import ENVIRONMENT_PREFIX
from yr_fastload_native.template import telling
from yr_fastload_native.vllm import phases, reports

__all__ = ["BEYOND_GRACE_S", "Forks", "LocalLauncher", "LocalServer"]

_TAIL_BYTES = 2000
_NOTE_EVERY_S = 4.0  # how often its shared memory is recorded; a fleet asks for events every 5 s once it is ready
_SOCKET_CHARS = 107  # sockaddr_un
BEYOND_GRACE_S = 15.0  # a keeper's own time limit for killing, plus some


class Forks(Protocol):
    """What forks servers, and takes in what they tell."""

    def fork(self, request: Request) -> KeeperProcess:
        """A keeper with the server that it keeps.

        Raises:
            NotForkedError: It has to be started as ever. Bounded.
        """

    def learn(self, told: telling.Told) -> None: ...


class LocalLauncher:
    """Starts subprocesses, each under a `keeper`.

    Args:
        logs: Directory for the logs; None: a temporary directory that is removed with the launcher.
        host: Address on which the servers listen.
        machine: Assigns devices; by default nothing is assigned, and servers see the devices of this process.
        forks: Whether servers are forked from a template where that is possible.
    """

    def __init__(
        self,
        logs: Path | None = None,
        host: str = "127.0.0.1",
        machine: MachineDevices | None = None,
        *,
        forks: bool = False,
    ) -> None:
        self._host = host
        self._machine = machine or MachineDevices()
        self._scratch = Scratch("serve")
        self._logs = logs or self._scratch.path
        self._logs.mkdir(parents=True, exist_ok=True)
        self._forks = forks
        self._lock = threading.Lock()
        self._template: Template | None = None

    @property
    def devices(self) -> Devices:
        return self._machine.devices

    def prepare(self, order: Order) -> None:
        if self._forks:
            self._template_for(order).prepare()

    def template(self) -> dict[str, Any] | None:
        with self._lock:
            template = self._template
        return None if template is None else template.status()

    def launch(self, order: Order, template: Forks | None = None) -> LocalServer:
        """Start a server.

        Args:
            order: For it.
            template: Another than this launcher's own, from which it is forked.

        Raises:
            ResourceExhaustedError: The devices are in use.
            UnavailableError: It cannot be started.
            NotPublishedError: The directory of its model is not on this machine, and nobody publishes what is in it.
        """
        began = phases.now()
        here = at_hand(order, _environment(order, self._scratch, self._host))
        taken = None if here is order else began
        if template is None and self._forks:
            template = self._template_for(order)
        lent = self._machine.lend(order.devices)
        try:
            return LocalServer(here, self._logs, self._scratch, self._host, lent, template, taken)
        except BaseException:
            lent.give_back()
            raise

    def environment(self, order: Order) -> dict[str, str]:
        """What servers of such an order have in common."""
        return _environment(order, self._scratch, self._host)

    def close(self) -> None:
        if self._template is not None:
            self._template.close()
        self._scratch.close()

    def _template_for(self, order: Order) -> Template:
        with self._lock:
            if self._template is None:
                self._template = Template(self._scratch, order.imports, _environment(order, self._scratch, self._host))
            return self._template


class LocalServer:
    """One subprocess with a server.

    Args:
        order: What to start.
        logs: Directory of its log.
        scratch: Where its report and sockets are.
        host: Address on which it listens.
        lent: Its devices.
        template: From which it is forked if possible; None: it is not.
        taken: When somebody began to take the files of its model for it, as `phases.now` tells; None: nobody did.

    Raises:
        UnavailableError: It cannot be started.
    """

    def __init__(
        self,
        order: Order,
        logs: Path,
        scratch: Scratch,
        host: str,
        lent: Lent,
        template: Forks | None = None,
        taken: float | None = None,
    ) -> None:
        self._launched = phases.now() if taken is None else taken
        self.host = host
        self.port = _free_port(host)
        self._log = logs / f"{order.name}.log"
        self._report = scratch.path / f"{order.name}.report"
        self._report.unlink(missing_ok=True)
        if taken is not None:
            phases.mark(str(self._report), phases.MODEL_TAKEN)
        self.uds = order.uds
        where = ["--host", host, "--port", str(self.port)]
        if self.uds is not None:
            _make_room(self.uds)
            where = ["--uds", self.uds]
        self._name = order.name
        self._scratch = scratch
        self._noted_s = time.monotonic()
        self._grace_s = order.grace_s
        self._lent = lent
        self._template = template
        self.not_forked: str | None = None
        environment = {
            **_environment(order, scratch, host),
            **lent.environment,
            ENVIRONMENT_PREFIX + "REPORT": str(self._report),
        }
        try:
            self._process = self._start([*order.arguments, *where], environment)
        except OSError as error:
            raise UnavailableError(f"cannot start {order.name}: {error}", op="serve") from None

    def _start(self, arguments: list[str], environment: Mapping[str, str]) -> KeeperProcess:
        kept = (self._scratch.descriptor,)  # in use until the keeper has gone, too
        with self._log.open("ab") as log:
            if self._template is not None:
                telling.make_room(self._report)
                try:
                    return self._template.fork(Request(arguments, environment, self._grace_s, log.fileno(), kept))
                except NotForkedError as error:
                    self.not_forked = str(error)
            command = keeper_command("run", self._grace_s, [sys.executable, *arguments])
            return start_keeper(command, environment, log.fileno(), kept)

    @property
    def from_template(self) -> bool:
        return self._template is not None and self.not_forked is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
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
            self._learn()
        return reports.events(self._report)

    def is_ready(self) -> list[phases.Phase]:
        if self._template is not None:
            telling.ask(self._report)
        return phases.phases_of(reports.events(self._report), self._launched, phases.now())

    def _learn(self) -> None:
        if self._template is not None and (told := telling.collect(self._report)) is not None:
            self._template.learn(told)

    def stop(self) -> None:
        self._process.ask_to_end()
        if not self._process.wait(self._grace_s + BEYOND_GRACE_S):
            self._process.kill()
            self._process.wait(BEYOND_GRACE_S)
        self._process.close()
        telling.remove(self._report)
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


def _environment(order: Order, scratch: Scratch, host: str) -> dict[str, str]:
    """The part of the environment that all servers of such an order share."""
    worker = {"DS_WORKER_ADDR": f"{host}:{order.worker_port}"} if order.worker_port else {}
    return {
        **worker,
        "PYTHONSAFEPATH": "1",  # as a command has it: -m alone would put the current directory first
        **order.defaults,
        **_inherited(),
        **order.environment,
        "VLLM_RPC_BASE_PATH": str(scratch.path),  # killed, it leaves sockets there
    }


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
