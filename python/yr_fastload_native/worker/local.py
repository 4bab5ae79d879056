"""A local openYuanrong worker: one real process on loopback, shared by every process of its user."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import msgspec

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError
from yr_fastload_native.settings.secret import Secret
from yr_fastload_native.worker import pool_port
from yr_fastload_native.worker.door import Door, is_open, was_told
from yr_fastload_native.worker.home import Home, WorkerStatus, check_path
from yr_fastload_native.worker.launch import find_dscli, run_dscli
from yr_fastload_native.worker.memory import huge_pages_mb, pool_mb
from yr_fastload_native.worker.place import Place
from yr_fastload_native.worker.process import flags, kill_strays, start_ticks, strays
from yr_fastload_native.worker.watcher import has_clients

__all__ = ["LocalWorker"]

_FORCE_S = 75.0  # ten seconds to end its calls, and a minute to release its memory
_STATUS_S = 2.0
_PAUSE_S = 0.02
logger = logging.getLogger(__name__)


class LocalWorker:
    """A real openYuanrong worker on loopback, one per home directory; by default one per machine and user.

    Use it as a context manager. The first user starts the worker, later ones join it, and the last one to leave stops
    it. A killed user counts as gone, because its claim is a connection that the kernel closes. A forked process shares
    its parent's claim. The worker depends neither on the process that started it nor on any file.

    Args:
        home: Private directory (mode 0700) of the worker; by default the one that ``YR_FASTLOAD_WORKER_HOME`` names,
            otherwise ``yr-fastload-UID`` in the temporary directory of the process that starts it.
        port: Loopback port for a newly started worker; 0 picks a free one.
        memory_mb: Shared memory of a newly started worker, MiB; 0 uses half of the available memory, but at least 256.
            The pool fills up as objects arrive. A worker that is already running keeps its size.
        start_timeout_s: Time limit of ``start()``, and of waiting for another process that starts or stops the worker.
        keep: Keep the worker running after its last user, until ``stop(force=True)``.
        curve_key_dir: Directory made by `make_curve_keys`; the worker then only answers clients with its keys. None:
            every process on the machine can connect.
        place: Of a newly started worker in a cluster of several machines, instead of ``port``.
        flags: More of openYuanrong's flags for a newly started worker.

    Raises:
        InvalidArgumentError: A number is out of range, the path of ``home`` cannot hold the worker's sockets, or the
            worker's private key is missing or open to others.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        port: int = 0,
        memory_mb: int = 0,
        start_timeout_s: float = 60.0,
        keep: bool = False,
        curve_key_dir: str | os.PathLike[str] | None = None,
        place: Place | None = None,
        flags: Mapping[str, str] | None = None,
    ) -> None:
        _require(0 <= port < 65536, f"port={port} is not allowed; use 0 (any free port) to 65535")
        _require(memory_mb >= 0, f"memory_mb={memory_mb} is not allowed; use 0 (automatic) or a size in MiB")
        _require(start_timeout_s > 0, f"start_timeout_s={start_timeout_s} is not allowed; use a time above 0")
        self._home = Home(home)
        self._place = Place(port=port) if place is None else place
        self._flags = dict(flags or {})
        self._memory_mb = memory_mb
        self._start_timeout_s = start_timeout_s
        self._keep = keep
        self._curve_key_dir = None if curve_key_dir is None else Path(os.path.abspath(curve_key_dir))
        if self._curve_key_dir is not None:
            check_path("curve_key_dir", self._curve_key_dir)
            Secret.from_file(self._curve_key_dir / "worker.key_secret", "curve_key_dir")
        self._door = Door(self._home.key, self._busy)
        self._lock = threading.Lock()
        self._user: int | None = None
        self._status: WorkerStatus | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT`` of the worker.

        Raises:
            UnavailableError: Not started, or stopped.
        """
        if self._status is None:
            raise UnavailableError("this LocalWorker is not started; call start() or use `with`", op="worker address")
        return self._status.address

    def start(self) -> LocalWorker:
        """Join the worker of this home, or start it, which takes about 6 s (0.8.1, 2 cores).

        Returns:
            This object.

        Raises:
            UnavailableError: There is no ``dscli``, the port is taken, the home is unsafe, or the worker died or was
                not ready in time; nothing is left running.
            ResourceExhaustedError: The pool does not fit into the available memory.
        """
        deadline = time.monotonic() + self._start_timeout_s
        with self._lock:
            if self._user is None or self.is_lost:
                self._forget()
                self._user, self._status = self._enter(deadline)
        return self

    @property
    def process(self) -> tuple[int, int]:
        """The worker's pid and start time; zeros if it is not started."""
        return (0, 0) if self._status is None else (self._status.pid, self._status.start_ticks)

    @property
    def is_lost(self) -> bool:
        """Whether the joined worker, or its watcher, has ended; `start` then joins or starts another."""
        user = self._user
        return user is not None and not is_open(user)

    @property
    def was_stopped(self) -> bool:
        """Whether it was stopped on purpose while in use, so that no user should start another on its own."""
        user = self._user
        return user is not None and was_told(user)

    def rejoin(self, timeout_s: float, *, may_launch: bool) -> bool:
        """Join or start a worker after the previous one has gone; returns whether there is one now.

        Args:
            timeout_s: Time limit of the call, seconds.
            may_launch: Whether to start one if there is none to join.

        Raises:
            UnavailableError: As `start`.
            ResourceExhaustedError: As `start`.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            if self._user is None or not self.is_lost:
                return self._user is not None
            if not may_launch and self._door.ask("status", deadline) is None:
                return False
            before, (self._user, self._status) = self._user, self._enter(deadline)
            os.close(before)
        return True

    def stop(self, *, force: bool = False) -> None:
        """Leave the worker; the last user stops it, unless it was started with ``keep``.

        May be called repeatedly, and without ``start()``: then it stops a worker that nobody uses.

        Args:
            force: Stop it even if it was to be kept or others use it; it gets 10 s to finish their calls.

        Raises:
            UnavailableError: Another process has been starting or stopping it for ``start_timeout_s``, or it cannot be
                killed.
        """
        with self._lock:
            self._forget()
        if self._home.path.exists():
            self._home.check("worker stop")
        deadline = time.monotonic() + self._start_timeout_s + (_FORCE_S if force else 0)
        answer = self._door.ask("force" if force else "stop", deadline)
        if answer is None:
            self._stop_unwatched(force)
        elif force and not answer["stopped"]:
            raise UnavailableError(
                f"worker pid {answer['pid']} survived SIGKILL; see its kernel stack", op="worker stop"
            )

    def _forget(self) -> None:
        user, self._user, self._status = self._user, None, None
        if user is not None:
            os.close(user)  # a process forked from this one may still use the worker

    def _stop_unwatched(self, force: bool) -> None:
        listener = self._door.bind() if force and self._home.path.exists() else None
        if listener is not None:
            with listener:
                kill_strays(self._home.ready)
                shutil.rmtree(self._home.data, ignore_errors=True)

    def __enter__(self) -> LocalWorker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @classmethod
    def status(cls, home: str | os.PathLike[str] | None = None) -> WorkerStatus | None:
        """The worker of this home, None if there is none; starts and changes nothing.

        Raises:
            UnavailableError: Somebody else could have prepared the directory.
        """
        worker = cls(home=home)
        directory = worker._home
        if directory.path.exists():
            directory.check("worker status")
        try:
            answer = worker._door.ask("status", time.monotonic() + _STATUS_S)
        except UnavailableError:
            return None  # one that is about to start or end
        return _in_use(directory) if answer is None else _decode(answer)

    def _busy(self) -> UnavailableError:
        return UnavailableError(
            f"another process has been starting or stopping the worker of {self._home.path} for "
            f"{self._start_timeout_s:g} s; try again, or use another home",
            op="worker start",
        )

    def _enter(self, deadline: float) -> tuple[int, WorkerStatus]:
        """Become a user; returns the descriptor that represents that, and the worker's status."""
        while True:
            user = self._door.say(self._request, deadline)
            if user is None:
                listener = self._door.bind()
                if listener is not None:
                    with listener:
                        return self._launch(listener, deadline)
            else:
                with contextlib.ExitStack() as undo:
                    undo.enter_context(user)
                    answer = self._door.hear(user, deadline)
                    if answer is not None:
                        status = _decode(answer)
                        self._check_joined(status)
                        undo.pop_all()
                        return user.detach(), status
            if time.monotonic() > deadline:
                raise self._busy()
            time.sleep(_PAUSE_S)

    @property
    def _request(self) -> str:
        return "keep" if self._keep else "use"

    def _check_joined(self, status: WorkerStatus) -> None:
        place = self._place
        if place.port and status.address != place.address:
            asked, omitted = ("port", "the port") if place.part == "alone" else ("address", "the address")
            raise UnavailableError(
                f"{asked} {place.port if asked == 'port' else place.address} was asked for, but the worker of "
                f"{status.home} runs at {status.address} (pid {status.pid}); omit {omitted} to join it, stop it first, "
                "or use another home",
                op="worker start",
            )
        if place.part != "alone" and (place.metastore, place.etcd) != (status.metastore_address, status.etcd_address):
            raise UnavailableError(
                f"the worker of {status.home} (pid {status.pid}) is in the cluster of "
                f"{status.etcd_address or status.metastore_address}; stop it first, or use another home",
                op="worker start",
            )
        if self._curve_key_dir is not None and not status.curve:
            raise UnavailableError(
                f"the worker of {status.home} (pid {status.pid}) runs without curve keys; stop it first, or use "
                "another home",
                op="worker start",
            )
        if self._memory_mb > status.memory_mb:
            logger.warning("joined worker %s has %d MiB, not %d", status.address, status.memory_mb, self._memory_mb)
        if not (status.home / "datasystem" / "uds").is_dir():
            logger.warning(
                "somebody removed %s: processes that join worker %s now get their bytes by TCP, not by shared memory, "
                "until it was stopped and started again",
                status.home,
                status.address,
            )

    def _launch(self, listener: socket.socket, deadline: float) -> tuple[int, WorkerStatus]:
        """Start the worker, or take over one that is in use but no longer watched."""
        home = self._home
        home.make("worker start")
        with contextlib.ExitStack() as undo:
            lock = home.hold(deadline, "worker start")
            undo.callback(os.close, lock)
            status = _in_use(home)
            adopted = status is not None
            if status is None:
                status = self._run(deadline)
                undo.callback(kill_strays, home.ready)
            user = self._door.say(self._request, deadline)
            assert user is not None  # this process is listening
            undo.enter_context(user)
            facts = msgspec.json.decode(msgspec.json.encode(status, enc_hook=str))
            with pool_port.listen(status.address) or contextlib.nullcontext() as tells:
                self._door.leave_to_watcher(listener, lock, facts, data=home.data, adopted=adopted, tells=tells)
            listener.close()
            if self._door.hear(user, deadline) is None:
                raise UnavailableError(
                    f"the worker died as soon as it was ready; its logs are in {home.logs}", op="worker start"
                )
            undo.pop_all()
            os.close(lock)
        if adopted:
            self._check_joined(status)
        return user.detach(), status

    def _run(self, deadline: float) -> WorkerStatus:
        home = self._home
        dscli = find_dscli()
        huge = self._flags.get("enable_huge_tlb") == "true"
        memory_mb = (huge_pages_mb if huge else pool_mb)(self._memory_mb)
        kill_strays(home.ready)
        try:
            worker, metastore = run_dscli(
                dscli, home, self._place, memory_mb, deadline, self._curve_key_dir, self._flags
            )
            pid = next((process.pid for process in strays(home.ready)), 0)
            ticks = start_ticks(pid)
            if ticks is None:
                raise UnavailableError(
                    f"the worker died as soon as it was ready; its logs are in {home.logs}", op="worker start"
                )
            home.close_off()
        except BaseException:
            kill_strays(home.ready)
            raise
        logger.info("started worker %s, pid %d, %d MiB", worker, pid, memory_mb)
        curve = self._curve_key_dir is not None
        return WorkerStatus(worker, metastore, pid, ticks, memory_mb, home.path, self._keep, curve, self._place.etcd)


def _decode(answer: dict[str, object]) -> WorkerStatus:
    return msgspec.convert(answer, WorkerStatus, dec_hook=lambda _, text: Path(text))


def _in_use(home: Home) -> WorkerStatus | None:
    """A worker of this home that has clients although its watcher was killed."""
    for process in strays(home.ready):
        given, ticks = flags(process), start_ticks(process.pid)
        if given and ticks is not None and has_clients(given["worker_address"]):
            return WorkerStatus(
                given["worker_address"],
                given.get("metastore_address", ""),
                process.pid,
                ticks,
                int(given["shared_memory_size_mb"]),
                home.path,
                keep=False,
                curve=given.get("enable_curve_zmq") == "true",
                etcd_address=given.get("etcd_address", ""),
            )
    return None


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvalidArgumentError(detail, op="worker")
