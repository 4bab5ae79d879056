"""A directory for a run's files, removed with the run, or by the next run if that was killed.

Processes that have its descriptor open hold the directory: its lock (flock) ends with the last of them, however that
ends, even across containers. systemd does not clean up locked directories in /tmp.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.settings import Config

__all__ = ["HOME", "Scratch", "scratch", "short_directories"]

_PREFIX = "yr-fastload-run-"
HOME = "worker"  # name of a worker's home in such a directory
# Leaves room for a worker's socket directory (80) and for vLLM's sockets (107, with names of 36).
_PLACE_CHARS = 80 - len(f"/{_PREFIX}12345678/{HOME}/datasystem/uds")
_SHARED = "/dev/shm/"
_NOTE = ".shared"
_SHARED_NAME = re.compile(r"psm_[0-9a-f]+")  # as named by Python's multiprocessing.shared_memory


class Scratch:
    """One directory.

    Attributes:
        path: Its path.
        descriptor: For processes that are to hold the directory while they live.

    Args:
        op: For whom, in errors.
        sockets: Whether its path must be short enough for sockets; it is then elsewhere, for example in /tmp, if TMPDIR
            is too long.

    Raises:
        UnavailableError: There is no suitable place.
    """

    def __init__(self, op: str, *, sockets: bool = True) -> None:
        places = short_directories(_PLACE_CHARS if sockets else os.pathconf("/", "PC_PATH_MAX"), op=op)
        for place in places:
            _sweep(place)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=places[0]))
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            if self.path.exists():
                return
            os.close(self.descriptor)  # another sweep was quicker

    def note_shared(self, owner: str, pids: Iterable[int]) -> None:
        """Note the memory that these processes have in /dev/shm through Python, to remove it after they have gone."""
        found: set[str] = set()
        for pid in pids:
            with contextlib.suppress(OSError):  # gone
                links = [os.readlink(f"/proc/{pid}/fd/{each}") for each in os.listdir(f"/proc/{pid}/fd")]
                found.update(link[len(_SHARED) :] for link in links if link.startswith(_SHARED))
        if names := {name for name in found if _SHARED_NAME.fullmatch(name)}:
            new = self.path / f"{owner}.new"
            new.write_text("\n".join(names))
            new.replace(new.with_suffix(_NOTE))

    def remove_shared(self, owner: str) -> None:
        """Remove the noted memory that is left, once the processes have gone."""
        _remove_shared(self.path / f"{owner}{_NOTE}")

    def close(self) -> None:
        """Remove the directory and its contents. May be called repeatedly."""
        if self.descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.descriptor)
            self.descriptor = -1


@contextlib.contextmanager
def scratch(op: str, *, sockets: bool = True) -> Iterator[Path]:
    """A `Scratch` that is removed at the end of the block."""
    made = Scratch(op, sockets=sockets)
    try:
        yield made.path
    finally:
        made.close()


def short_directories(chars: int, *, op: str) -> list[Path]:
    """Directories for temporary files, the best one first.

    Args:
        chars: Longest allowed path; sockets need short ones.
        op: For whom, in errors.

    Raises:
        UnavailableError: None is writable.
    """
    runtime = Config.runtime_directory()
    places = dict.fromkeys([*_temporary(), "/tmp", "/var/tmp", *([str(runtime)] if runtime else []), "/dev/shm"])
    found = [
        Path(place)
        for place in places
        if len(os.fsencode(place)) <= chars and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)
    ]
    if not found:
        raise UnavailableError(
            f"none of {', '.join(places)} is writable and has a path of at most {chars} characters; set TMPDIR "
            "to such a directory",
            op=op,
        )
    return found


def _temporary() -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield tempfile.gettempdir()


def _sweep(place: Path) -> None:
    """Remove what this user's killed runs left behind, unless a worker still has its home there."""
    for path in place.glob(f"{_PREFIX}*"):
        # Gone, somebody else's, or in use.
        with contextlib.suppress(OSError), _locked(path), _locked_if_there(path / HOME):
            for note in path.glob(f"*{_NOTE}"):
                _remove_shared(note)
            shutil.rmtree(path, ignore_errors=True)


def _locked_if_there(path: Path) -> contextlib.AbstractContextManager[None]:
    return _locked(path) if path.exists() else contextlib.nullcontext()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a directory of this user that nobody holds.

    Raises:
        OSError: It is somebody else's, or in use.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_shared(note: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for name in note.read_text().split():
            if _SHARED_NAME.fullmatch(name):
                with contextlib.suppress(OSError):  # gone, or somebody else's
                    os.unlink(_SHARED + name)
        note.unlink()
