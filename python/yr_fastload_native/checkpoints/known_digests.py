"""SHA-256 sums of files that are known without reading them.

They come from Hugging Face's cache, which names blobs by their sum; from what its downloads record beside a file; and
from what this user's processes remember of files that they have read completely. ModelScope records revisions but no
sums.
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
from yr_fastload_native.settings import Config

__all__ = ["claimed", "one_at_a_time", "remember", "remembered"]

_log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_DOWNLOADS = Path(".cache", "huggingface", "download")
_CLOCK_S = 1.0  # as huggingface_hub allows
_MOST = 4096  # sums to keep
_MOST_BYTES = 256  # of a file whose first three lines are read
_here: dict[str, str] = {}  # what this process read itself, even if it can write nowhere


def claimed(path: Path) -> str:
    """The sum that Hugging Face's hub gave for a file; empty if it gave none or the file was written to since.

    A write to a file in its cache that sets the time back is not detected.
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
    """The directory for remembered sums; None if there is none, or if others could write there."""
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
    """Remember the sum of a file whose state was the same before and after reading. Never raises."""
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
    """Whether this process may read whole files now; one process per user may, for as long as this is open."""
    where = _directory(make=True)
    try:
        descriptor = -1 if where is None else os.open(where / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        descriptor = -1
    if descriptor < 0:
        yield True  # no lock to ask
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
    """A file that replaces the one at a path once it is completely written."""
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
