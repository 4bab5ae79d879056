"""What the system refuses of files, as errors that name the culprit and the way out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yr_fastload_native.errors import FastLoadError, InvalidArgumentError, ResourceExhaustedError

__all__ = ["disk_full", "typed_os_errors"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = "name another directory"


@contextmanager
def typed_os_errors(path: Path, *, op: str, advice: str = _ADVICE) -> Iterator[None]:
    """Have an ``OSError`` raised as one of this package's.

    Args:
        path: What is written, for the message.
        op: For errors.
        advice: What to do where the disk is full, beside making room.

    Raises:
        ResourceExhaustedError: The disk, or a quota, is full.
        InvalidArgumentError: Anything else.
    """
    try:
        yield
    except FastLoadError:  # some are errors of the system, too
        raise
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(path.parent).free
            why = f"the disk is full, {free} bytes are free ({error.strerror})"
            raise disk_full(path, why, op=op, advice=advice) from error
        raise InvalidArgumentError(
            f"{path} cannot be written: {error.strerror}; {_ADVICE}", op=op, failed_keys=[str(path)]
        ) from error


def disk_full(path: Path, why: str, *, op: str, advice: str = _ADVICE) -> ResourceExhaustedError:
    """The error for a disk that has no room for something."""
    return ResourceExhaustedError(f"{path.parent}: {why}; free some, or {advice}", op=op, failed_keys=[str(path)])
