"""Private directories for what lives as long as one process, and the sweeping of those whose process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yr_fastload_native.worker.home import short_directory

__all__ = ["scratch_directory", "sweep"]

_PREFIX = "yr-fastload-"
_MARK = ".of-a-process"  # locked by that process
_CHARS = 40  # leaves room for names of sockets


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A private directory with a short path; those that killed processes left beside it are removed first.

    Raises:
        UnavailableError: There is no place for it.
    """
    parent = short_directory(_CHARS)
    sweep(parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as made:
        descriptor = os.open(Path(made, _MARK + "~"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _is_free(descriptor)
            os.rename(Path(made, _MARK + "~"), Path(made, _MARK))  # locked before anybody sees it
            yield Path(made)
        finally:
            os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove those of this user below ``parent`` that no process and no worker uses any more. Never raises."""
    with contextlib.suppress(OSError):
        for entry in list(parent.glob(f"{_PREFIX}*/{_MARK}")):
            with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
                # The process that made it, and then a worker that has its home in it and ends soon.
                for path, flags in ((entry, os.O_RDWR), (entry.parent, os.O_RDONLY | os.O_DIRECTORY)):
                    descriptor = os.open(path, flags | os.O_NOFOLLOW)
                    opened.callback(os.close, descriptor)
                    if os.fstat(descriptor).st_uid != os.getuid() or not _is_free(descriptor):
                        break
                else:
                    shutil.rmtree(entry.parent, ignore_errors=True)


def _is_free(descriptor: int) -> bool:
    """Whether nobody has locked this; then this process has, until it closes it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
