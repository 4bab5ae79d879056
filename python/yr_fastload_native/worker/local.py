"""A local openYuanrong worker: one real process on loopback, shared by every process of its user."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import attrs
import filelock

from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, UnavailableError
from yr_fastload_native.secret import Secret
from yr_fastload_native.worker.home import Home, WorkerStatus, check_path
from yr_fastload_native.worker.launch import HOST, find_dscli, run_dscli
from yr_fastload_native.worker.memory import pool_mb
from yr_fastload_native.worker.process import end, kill_strays, start_ticks, strays
from yr_fastload_native.worker.watcher import watch

__all__ = ["LocalWorker"]

_GRACE_S = 10.0
logger = logging.getLogger(__name__)


class LocalWorker:
    """A real openYuanrong worker on loopback, at most one per home directory: by default one a machine and user.

    Use it as a context manager. The first user starts the worker, later ones join it, and the last one to leave stops
    it; a user that is killed counts as gone, because its claim is a file lock that the kernel drops. A process forked
    by a user shares its claim.

    Args:
        home: Private directory (mode 0700) of the worker; ``$XDG_RUNTIME_DIR/yr-fastload`` if that exists, else
            ``yr-fastload-UID`` in the temporary directory.
        port: Loopback port of a worker that is started; 0 picks a free one.
        memory_mb: Shared memory of a worker that is started, MiB; 0 takes half of what is available then, at least
            256. The pool is filled as objects arrive. A worker that runs already keeps its size.
        start_timeout_s: Bound of ``start()``, and of waiting for another process that starts or stops the worker.
        keep: Leave the worker running when its last user goes, until ``stop(force=True)``.
        curve_key_dir: Directory of `make_curve_keys`; the worker then answers nobody but clients with its keys. None
            lets every process of the machine connect.

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
    ) -> None:
        _require(0 <= port < 65536, f"port={port} is not allowed; use 0 (any free port) to 65535")
        _require(memory_mb >= 0, f"memory_mb={memory_mb} is not allowed; use 0 (automatic) or a size in MiB")
        _require(start_timeout_s > 0, f"start_timeout_s={start_timeout_s} is not allowed; use a time above 0")
        self._home = Home(home)
        self._port = port
        self._memory_mb = memory_mb
        self._start_timeout_s = start_timeout_s
        self._keep = keep
        self._curve_key_dir = None if curve_key_dir is None else Path(os.path.abspath(curve_key_dir))
        if self._curve_key_dir is not None:
            check_path("curve_key_dir", self._curve_key_dir)
            Secret.from_file(self._curve_key_dir / "worker.key_secret", "curve_key_dir")
        self._users: int | None = None
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
        """Join the worker of this home, or start it; about 6 s when it has to be started (0.8.1, 2 cores).

        Returns:
            This object.

        Raises:
            UnavailableError: No ``dscli``, a port that is taken, an unsafe home, or the worker died or was not ready
                in time; nothing is left running.
            ResourceExhaustedError: The pool would not fit into the memory that is available.
        """
        deadline = time.monotonic() + self._start_timeout_s
        self._home.make("worker start")
        with self._locked(deadline, "worker start"):
            if self._users is not None:
                return self
            with contextlib.ExitStack() as undo:
                users = self._open_users()
                undo.callback(os.close, users)
                fcntl.flock(users, fcntl.LOCK_SH)
                running = self._home.running()
                status = self._join(running) if running else self._launch(deadline)
                undo.pop_all()
            self._users, self._status = users, status
        return self

    def stop(self, *, force: bool = False) -> None:
        """Leave the worker; the last user to leave stops it unless it is to be kept.

        May be called more than once, and without ``start()``: it then stops a worker that nobody uses.

        Args:
            force: Stop it also if it is to be kept or others use it; it gets 10 s to end their calls.

        Raises:
            UnavailableError: Another process held the lock for ``start_timeout_s``, or the worker cannot be ended.
        """
        users, self._users, self._status = self._users, None, None
        if users is not None:
            os.close(users)  # and no LOCK_UN: a process that was forked from this one may go on using the worker
        if not self._home.path.exists():
            return
        self._home.check("worker stop")
        with self._locked(time.monotonic() + self._start_timeout_s, "worker stop"):
            status = self._home.running()
            if status is not None and (force or (not status.keep and self._unused())):
                # Without users there is no call to end and no data to save, and an orderly exit takes 5 s (measured).
                end(status.pid, status.start_ticks, grace_s=_GRACE_S if force else 0)
                shutil.rmtree(self._home.data, ignore_errors=True)
                status = None
            if status is None:  # where it died by itself its logs stay, until the next start
                self._home.forget()

    def __enter__(self) -> LocalWorker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @classmethod
    def status(cls, home: str | os.PathLike[str] | None = None) -> WorkerStatus | None:
        """What runs in this home, None if nothing does; starts and changes nothing.

        Raises:
            UnavailableError: The directory could have been written by somebody else.
        """
        directory = Home(home)
        if not directory.path.exists():
            return None
        directory.check("worker status")
        return directory.running()

    @contextlib.contextmanager
    def _locked(self, deadline: float, op: str) -> Iterator[None]:
        lock = filelock.FileLock(self._home.lock, timeout=max(0.0, deadline - time.monotonic()), mode=0o600)
        try:
            with lock:
                yield
        except filelock.Timeout:
            raise UnavailableError(
                f"another process has been starting or stopping the worker of {self._home.path} for "
                f"{self._start_timeout_s:g} s; try again, or use another home",
                op=op,
            ) from None
        except FastLoadError:
            raise
        except OSError as error:
            raise UnavailableError(
                f"{self._home.path}: {error}; repair the directory or use another home", op=op
            ) from error

    def _open_users(self) -> int:
        return os.open(self._home.users, os.O_RDWR | os.O_CREAT, 0o600)

    def _unused(self) -> bool:
        users = self._open_users()
        try:
            # The watcher takes the exclusive lock once, for an instant, when the last user goes. If the first attempt
            # met it, either it still has it (no shared lock to be had, so no users), or the second attempt succeeds.
            exclusive, shared = fcntl.LOCK_EX, fcntl.LOCK_SH
            return _try_lock(users, exclusive) or not _try_lock(users, shared) or _try_lock(users, exclusive)
        finally:
            os.close(users)

    def _join(self, status: WorkerStatus) -> WorkerStatus:
        if self._port and status.address != f"{HOST}:{self._port}":
            raise UnavailableError(
                f"port {self._port} was asked for, but the worker of {self._home.path} runs at {status.address} (pid "
                f"{status.pid}); leave the port away to join it, stop it first, or use another home",
                op="worker start",
            )
        if self._curve_key_dir is not None and not status.curve:
            raise UnavailableError(
                f"the worker of {self._home.path} (pid {status.pid}) runs without curve keys; stop it first, or use "
                "another home",
                op="worker start",
            )
        if self._memory_mb > status.memory_mb:
            logger.warning("joined worker %s has %d MiB, not %d", status.address, status.memory_mb, self._memory_mb)
        if self._keep and not status.keep:
            status = attrs.evolve(status, keep=True)
            self._home.write(status)
        return status

    def _launch(self, deadline: float) -> WorkerStatus:
        dscli = find_dscli()
        memory_mb = pool_mb(self._memory_mb)
        kill_strays(self._home.ready)
        try:
            worker, metastore = run_dscli(dscli, self._home, self._port, memory_mb, deadline, self._curve_key_dir)
            pid = next((process.pid for process in strays(self._home.ready)), 0)
            ticks = start_ticks(pid)
            if ticks is None:
                raise UnavailableError(
                    f"the worker died as soon as it was ready; its logs are in {self._home.logs}", op="worker start"
                )
            self._home.close_off()
            curve = self._curve_key_dir is not None
            status = WorkerStatus(worker, metastore, pid, ticks, memory_mb, self._home.path, self._keep, curve)
            self._home.write(status)
            if not self._keep:
                watch(self._home.path, self._home.users)
        except BaseException:
            kill_strays(self._home.ready)
            self._home.forget()
            raise
        logger.info("started worker %s, pid %d, %d MiB", worker, pid, memory_mb)
        return status


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise InvalidArgumentError(detail, op="worker")


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
