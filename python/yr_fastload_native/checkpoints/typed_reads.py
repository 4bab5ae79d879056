"""Reads from files of a checkpoint; what is wrong with one is a typed error that names it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.errors import IntegrityError, InvalidArgumentError

__all__ = ["CLIP", "damaged", "open_file", "read", "read_into"]

CLIP = 200  # longest quote from a file in an error message


def damaged(path: Path, detail: str, tensor: str | None = None) -> IntegrityError:
    """The error of a file, or of a tensor in it, that breaks its format."""
    where = str(path) if tensor is None else f"{path}: tensor {tensor[:CLIP]!r}"
    return IntegrityError(
        f"{where}: {detail}; fetch the checkpoint again",
        op="checkpoint",
        failed_keys=[str(path) if tensor is None else tensor],
    )


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    """The error of a file that the system does not let us read."""
    return InvalidArgumentError(
        f"{path} cannot be read: {error.strerror}; check its path and permissions",
        op="checkpoint",
        failed_keys=[str(path)],
    )


def open_file(path: Path) -> io.FileIO:
    """Open a file for reading.

    Raises:
        IntegrityError: It is missing.
        InvalidArgumentError: It is no file, or cannot be opened.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
            raise InvalidArgumentError(f"{path} is not a file", op="checkpoint", failed_keys=[str(path)])
        return io.FileIO(path)
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    except OSError as error:
        raise _unreadable(path, error) from error


def read_into(file: io.FileIO, path: Path, memory: NDArray[np.uint8]) -> None:
    """Read on until memory is full.

    Raises:
        IntegrityError: The file ends before.
        InvalidArgumentError: It cannot be read.
    """
    view = memory.data
    while view:
        try:
            count = file.readinto(view)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not count:
            raise damaged(path, "it ends too early")
        view = view[count:]


def read(file: io.FileIO, path: Path, size: int) -> bytes:
    """As `read_into`, the next bytes."""
    memory = np.empty(size, np.uint8)
    read_into(file, path, memory)
    return memory.tobytes()
