"""The private directory of a worker: what lies where, and the file that names the worker that runs."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

import attrs
import msgspec

from yr_fastload_native.config import Config
from yr_fastload_native.errors import InvalidArgumentError, UnavailableError
from yr_fastload_native.worker.process import start_ticks

__all__ = ["Home", "WorkerStatus", "check_path"]

_SOCKET_DIRECTORY_CHARS = 80  # of --unix_domain_socket_dir, which dscli makes HOME/datasystem/uds
_REFUSED_CHARS = frozenset(";&|`$()<>{}!*?\n\t\r\v\f'\"\\")  # DANGER in yr/datasystem/cli/common/util.py (0.8.1)


@attrs.frozen
class WorkerStatus:
    """A running worker, as its state file tells and the process table confirms.

    Attributes:
        address: ``HOST:PORT`` that clients connect to.
        metastore_address: ``HOST:PORT`` of the directory inside the worker; another worker may join through it.
        pid: Its process.
        start_ticks: When that process started, in clock ticks since boot: with ``pid`` it names one process only,
            also after the system's time was set.
        memory_mb: Size of its shared memory pool, MiB.
        home: Directory of its state, logs and sockets.
        keep: Whether it outlives its last user.
        curve: Whether it answers only to clients with curve keys that it knows.
    """

    address: str
    metastore_address: str
    pid: int
    start_ticks: int
    memory_mb: int
    home: Path
    keep: bool
    curve: bool = False

    @property
    def uptime_s(self) -> float:
        """Seconds since its process started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / os.sysconf("SC_CLK_TCK")


def check_path(what: str, path: Path) -> None:
    """Refuse a path that dscli would.

    Raises:
        InvalidArgumentError: It has such a character.
    """
    refused = sorted(_REFUSED_CHARS.intersection(str(path)))
    if refused:
        raise InvalidArgumentError(
            f"{what} {str(path)!r} contains {refused}, which dscli refuses; use another", op="worker"
        )


def _default_path() -> Path:
    runtime = Config.runtime_directory()
    return runtime / "yr-fastload" if runtime else Path(tempfile.gettempdir()) / f"yr-fastload-{os.getuid()}"


class Home:
    """One worker's directory. Nothing is made or looked at before a method asks for it."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """Name the directory; by default the one of this machine and user.

        Raises:
            InvalidArgumentError: The path cannot hold the worker's sockets.
        """
        self.path = Path(os.path.abspath(path)) if path is not None else _default_path()
        self.data = self.path / "datasystem"
        self.logs = self.data / "logs"
        self.ready = self.data / "probe" / "ready"
        self.lock = self.path / "worker.lock"
        self.users = self.path / "users.lock"
        self._state = self.path / "worker.json"
        sockets = str(self.data / "uds")
        excess = len(os.fsencode(sockets)) - _SOCKET_DIRECTORY_CHARS
        if excess > 0:
            raise InvalidArgumentError(
                f"home {str(self.path)!r} is {excess} characters too long for the worker's sockets; use a shorter",
                op="worker",
            )
        check_path("home", self.path)

    def make(self, op: str) -> None:
        """Make the directory if need be, private.

        Raises:
            UnavailableError: It cannot be made, or somebody else could have prepared it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot make {self.path}: {error.strerror}; use another home", op=op) from error
        self.check(op)

    def check(self, op: str) -> None:
        """Refuse a directory that somebody else could have prepared: the temporary directory is everybody's."""
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
        """Take from others what the worker opened to them: it makes its directory of sockets 0750 (0.8.1)."""
        for directory, _, _ in os.walk(self.data):
            os.chmod(directory, 0o700)

    def running(self) -> WorkerStatus | None:
        """The worker the state file names, if that very process still runs."""

        def as_path(_: type, text: str) -> Path:
            return Path(text)

        try:
            status = msgspec.json.decode(self._state.read_bytes(), type=WorkerStatus, dec_hook=as_path)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return status if start_ticks(status.pid) == status.start_ticks else None

    def write(self, status: WorkerStatus) -> None:
        """Replace the state file at once: readers take no lock."""
        fresh = self._state.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(msgspec.json.encode(status, enc_hook=str))
        fresh.replace(self._state)

    def forget(self) -> None:
        """Remove the state file."""
        self._state.unlink(missing_ok=True)
