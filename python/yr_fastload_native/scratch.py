"""A directory for what a run leaves on disk: it goes with the run, or is swept up by the next if that one was killed.

Whoever has its descriptor open has the directory: a lock on it (flock) goes with the last of them, however that ends,
in whatever container, and systemd's tidying of /tmp leaves what is locked alone.
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

from yr_fastload_native.config import Config
from yr_fastload_native.errors import UnavailableError

__all__ = ["HOME", "Scratch", "scratch", "short_directories"]

_PREFIX = "yr-fastload-run-"
HOME = "worker"  # what a worker's home in such a directory is called
# With 80 for the directory of a worker's sockets, and less than 107 for one of vLLM's, whose names have 36.
_PLACE_CHARS = 80 - len(f"/{_PREFIX}12345678/{HOME}/datasystem/uds")
_SHARED = "/dev/shm/"
_NOTE = ".shared"
_SHARED_NAME = re.compile(r"psm_[0-9a-f]+")  # as Python's multiprocessing.shared_memory makes them


class Scratch:
    """One directory.

    Attributes:
        path: Of it.
        descriptor: For processes that are to keep it while they live.

    Args:
        op: For whom, in errors.
        sockets: Whether its path has to be short enough for them; it is elsewhere, in /tmp for example, where
            TMPDIR is too long.

    Raises:
        UnavailableError: There is no place for one.
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
            os.close(self.descriptor)  # somebody who swept was quicker

    def note_shared(self, owner: str, pids: Iterable[int]) -> None:
        """Take down what these processes have in /dev/shm by Python, to be removed when they have gone."""
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
        """Remove what of it is left, once they have gone."""
        _remove_shared(self.path / f"{owner}{_NOTE}")

    def close(self) -> None:
        """Remove it, and what is in it. Twice is as once."""
        if self.descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.descriptor)
            self.descriptor = -1


@contextlib.contextmanager
def scratch(op: str, *, sockets: bool = True) -> Iterator[Path]:
    """A `Scratch` that goes with the block."""
    made = Scratch(op, sockets=sockets)
    try:
        yield made.path
    finally:
        made.close()


def short_directories(chars: int, *, op: str) -> list[Path]:
    """Directories for what is temporary, the best first.

    Args:
        chars: Most that a path may have: sockets need short ones.
        op: For whom, in errors.

    Raises:
        UnavailableError: There is none that can be written to.
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
            f"none of {', '.join(places)} can be written to and has a path of at most {chars} characters; set TMPDIR "
            "to one that is so",
            op=op,
        )
    return found


def _temporary() -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):
        yield tempfile.gettempdir()


def _sweep(place: Path) -> None:
    """Remove what killed runs of this user left there, but for one in which a worker still has its home."""
    for path in place.glob(f"{_PREFIX}*"):
        # Gone, another's, or in use.
        with contextlib.suppress(OSError), _locked(path), _locked_if_there(path / HOME):
            for note in path.glob(f"*{_NOTE}"):
                _remove_shared(note)
            shutil.rmtree(path, ignore_errors=True)


def _locked_if_there(path: Path) -> contextlib.AbstractContextManager[None]:
    return _locked(path) if path.exists() else contextlib.nullcontext()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A directory of this user that nobody else has.

    Raises:
        OSError: It is another's, or somebody has it.
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
                with contextlib.suppress(OSError):  # gone, or another's
                    os.unlink(_SHARED + name)
        note.unlink()
