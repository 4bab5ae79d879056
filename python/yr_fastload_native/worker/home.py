"""The private directory of a worker: where things are, and who may use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path

import attrs

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError
from yr_fastload_native.process.scratch import short_directories
from yr_fastload_native.settings import Config

__all__ = ["Home", "WorkerStatus", "check_path"]

_SOCKET_DIRECTORY_CHARS = 80  # of --unix_domain_socket_dir, which dscli sets to HOME/datasystem/uds
_HOME_CHARS = _SOCKET_DIRECTORY_CHARS - len("/datasystem/uds")
_DEFAULT_KEY = "default"
_PAUSE_S = 0.02
_REFUSED_CHARS = frozenset(";&|`$()<>{}!*?\n\t\r\v\f'\"\\")  # DANGER in yr/datasystem/cli/common/util.py (0.8.1)


@attrs.frozen
class WorkerStatus:
    """A running worker, as reported by its watcher.

    Attributes:
        address: ``HOST:PORT`` that clients connect to.
        metastore_address: ``HOST:PORT`` of its cluster's directory: in itself, or in the cluster's head; empty where an
            etcd is.
        pid: Its process.
        start_ticks: When that process started, in clock ticks since boot: together with ``pid`` it identifies one
            process, even after the system's time was set.
        memory_mb: Size of its shared memory pool, MiB.
        home: Directory of its state, logs and sockets.
        keep: Whether it outlives its last user.
        curve: Whether it answers only to clients with curve keys that it knows.
        etcd_address: Of the etcd of its cluster; empty if it has none.
    """

    address: str
    metastore_address: str
    pid: int
    start_ticks: int
    memory_mb: int
    home: Path
    keep: bool
    curve: bool = False
    etcd_address: str = ""

    @property
    def uptime_s(self) -> float:
        """Seconds since its process started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / os.sysconf("SC_CLK_TCK")


def check_path(what: str, path: Path) -> None:
    """Refuse a path that dscli would refuse.

    Raises:
        InvalidArgumentError: It has such a character.
    """
    refused = sorted(_REFUSED_CHARS.intersection(str(path)))
    if refused:
        raise InvalidArgumentError(
            f"{what} {str(path)!r} contains {refused}, which dscli refuses; use another", op="worker"
        )


def _default_path() -> Path:
    name = f"yr-fastload-{os.getuid()}"
    return short_directories(_HOME_CHARS - len(name) - 1, op="worker")[0] / name


class Home:
    """One worker's directory. Nothing is created or read until a method needs it.

    Attributes:
        key: What identifies this worker to other processes: its path or, by default, only the user, whatever temporary
            directory each process has.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """Name the directory; by default the one of this machine and user.

        Raises:
            InvalidArgumentError: The path cannot hold the worker's sockets.
            UnavailableError: No path is given, and no directory is suitable for one.
        """
        path = path if path is not None else Config.worker_home_from_env()
        if path is None:
            self.path, self.key = _default_path(), _DEFAULT_KEY
        else:
            self.path = Path(os.path.abspath(path))
            self.key = self._key()
        self.data = self.path / "datasystem"
        self.logs = self.data / "logs"
        self.ready = self.data / "probe" / "ready"
        excess = len(os.fsencode(self.path)) - _HOME_CHARS
        if excess > 0:
            raise InvalidArgumentError(
                f"home {str(self.path)!r} is {excess} characters too long for the worker's sockets; use a shorter one, "
                "such as one below /tmp",
                op="worker",
            )
        check_path("home", self.path)

    def _key(self) -> str:
        with contextlib.suppress(UnavailableError):
            if self.path == _default_path():
                return _DEFAULT_KEY
        return str(self.path.parent.resolve() / self.path.name)

    def make(self, op: str) -> None:
        """Create the directory if necessary, and keep it private.

        Raises:
            UnavailableError: It cannot be created, or somebody else could have prepared it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot create {self.path}: {error.strerror}; use another home", op=op) from error
        self.check(op)

    def check(self, op: str) -> None:
        """Refuse a directory that somebody else could have prepared: anyone can write to the temporary directory."""
        try:
            info = self.path.lstat()
        except OSError as error:
            raise UnavailableError(f"cannot use {self.path}: {error.strerror}; use another home", op=op) from error
        if not stat.S_ISDIR(info.st_mode):
            problem = "is a symbolic link or a file, not a directory"
        elif info.st_uid != os.geteuid():
            problem = f"belongs to user {info.st_uid}"
        elif info.st_mode & 0o077:
            problem = f"is open to others (mode {info.st_mode & 0o777:04o})"
        else:
            return
        raise UnavailableError(
            f"{self.path} {problem}; remove it, `chmod 700` it if it is yours, or use another home", op=op
        )

    def close_off(self) -> None:
        """Close to others what the worker opened to them: it creates its socket directory with mode 0750 (0.8.1)."""
        for directory, _, _ in os.walk(self.data):
            os.chmod(directory, 0o700)

    def hold(self, deadline: float, op: str) -> int:
        """A descriptor that keeps other workers out of the directory while it, or a copy of it, is open.

        A worker in another network namespace may have it, for example in a container. The lock also keeps
        systemd-tmpfiles from clearing the directory.

        Raises:
            UnavailableError: Another worker still has it at the deadline.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise UnavailableError(
                        f"{self.path} is used by a worker that cannot be reached from here, such as one in another "
                        "container; use another home, or another TMPDIR",
                        op=op,
                    ) from None
                time.sleep(_PAUSE_S)
            except OSError:  # a file system without such locks
                return descriptor
            else:
                return descriptor
