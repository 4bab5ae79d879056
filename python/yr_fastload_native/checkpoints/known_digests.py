"""SHA-256 sums of files that are to be had without reading them.

From Hugging Face's cache, whose blobs have their sum as their name; from what its downloads write beside a file; and
from what this user's processes remember of files that they once read whole. ModelScope keeps revisions, no sums.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.config import Config

__all__ = ["claimed", "one_at_a_time", "remember", "remembered"]

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DOWNLOADS = Path(".cache", "huggingface", "download")
_CLOCK_S = 1.0  # as huggingface_hub allows
_MOST = 4096  # sums that are kept
_MOST_BYTES = 256  # of a file of which three lines are read
_here: dict[str, str] = {}  # what this process read itself, wherever it may write to


def claimed(path: Path) -> str:
    """The sum that Hugging Face's hub gave for a file; empty where it gave none, or the file was written to since.

    Who writes to a file in its cache, and sets its time back, is not found out by this.
    """
    try:
        return _of_blob(path) or _of_download(path)
    except (OSError, ValueError):
        return ""


def _of_blob(path: Path) -> str:
    if not path.is_symlink():
        return ""
    blob = path.resolve()
    if blob.parent.name != "blobs" or not _SHA256.fullmatch(blob.name):  # git's own sums are shorter
        return ""
    return blob.name if blob.stat().st_mtime <= path.lstat().st_mtime + _CLOCK_S else ""  # linked once it was there


def _of_download(path: Path) -> str:
    for root in path.absolute().parents:
        downloads = root / _DOWNLOADS
        if not downloads.is_dir():
            continue
        beside = downloads / f"{path.absolute().relative_to(root)}.metadata"
        if not beside.is_file():
            return ""
        with beside.open(encoding="utf-8") as file:
            _, etag, written = file.read(_MOST_BYTES).splitlines()[:3]
        fresh = path.stat().st_mtime - _CLOCK_S <= float(written)
        return etag if fresh and _SHA256.fullmatch(etag) else ""
    return ""


def _directory(*, make: bool) -> Path | None:
    """Where sums are remembered; None where there is no such place, or others could write there."""
    root = Config.cache_directory()
    if root is None:
        return None
    found = root / "yr-fastload" / "sha256"
    try:
        if make:
            found.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = found.stat()
    except OSError as error:
        _log.debug("no sums of files are remembered: %s", error)
        return None
    return found if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def remembered(state: FileState) -> str:
    """The sum of a file in this state; empty if it is not known."""
    where = _directory(make=False)
    if state.key in _here or where is None:
        return _here.get(state.key, "")
    try:
        with (where / state.key).open(encoding="ascii") as file:
            text = file.read(_MOST_BYTES).strip()
    except (OSError, ValueError):
        return ""
    return text if _SHA256.fullmatch(text) else ""


def remember(state: FileState, sha256: str) -> None:
    """Keep the sum of a file that had one state while it was read, and before. Never raises."""
    _here[state.key] = sha256
    where = _directory(make=True)
    if where is None:
        return
    try:
        with _replacing(where / state.key) as file:
            file.write(sha256.encode() + b"\n")
        _forget_oldest(where)
    except OSError as error:
        _log.debug("a sum was not remembered: %s", error)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[bool]:
    """Whether it is this process's turn to read a file whole; of this user's, only one has it, while this is open."""
    where = _directory(make=True)
    try:
        descriptor = -1 if where is None else os.open(where / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor = -1
    if descriptor < 0:
        yield True  # nobody can be asked
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mine = True
    except OSError:
        mine = False
    try:
        yield mine
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[tempfile._TemporaryFileWrapper[bytes]]:
    """A file that takes a path's place once all of it is written."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            yield file
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def _forget_oldest(where: Path) -> None:
    kept = [Path(entry.path) for entry in os.scandir(where) if _SHA256.fullmatch(entry.name)]
    if len(kept) <= _MOST:
        return
    kept.sort(key=lambda path: path.stat().st_mtime_ns)
    for path in kept[: len(kept) - _MOST // 2]:
        path.unlink(missing_ok=True)
