"""The SHA-256 of a file, read without disturbing the page cache."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.checkpoints import known_digests
from yr_fastload_native.checkpoints.file_state import FileState

__all__ = ["ChangedError", "sum_of"]

_PIECE_BYTES = 4 << 20  # a multiple of what direct I/O requires


class ChangedError(Exception):
    """The file is not in the given state, or was written to while it was read."""


def sum_of(path: Path, state: FileState, go_on: Callable[[], None]) -> str:
    """Read a whole file, and remember its sum.

    Args:
        path: The file.
        state: The state that it must have before and after.
        go_on: Called before every 4 MiB; may raise to stop.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        ChangedError: Its state is different.
        OSError: It cannot be read.
    """
    settled = state.settled
    total = hashlib.sha256()
    with _Reader(path, state) as reader:
        for piece in range(0, state.size, _PIECE_BYTES):
            go_on()
            total.update(reader.read(piece))
    if FileState.of(path) != state:
        raise ChangedError(path)
    digest = total.hexdigest()
    if settled:
        known_digests.remember(state, digest)
    return digest


class _Reader:
    """Reads pieces of a file: from the page cache if they are in it, otherwise past it."""

    def __init__(self, path: Path, state: FileState) -> None:
        self._size = state.size
        self._buffer = mmap.mmap(-1, _PIECE_BYTES)  # aligned, as direct I/O requires
        self._cached = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._direct = -1
        self._mapping: NDArray[np.uint8] | None = None  # to ask which pages are cached; none is touched
        try:
            if FileState.of(self._cached) != state:
                raise ChangedError(path)
            os.posix_fadvise(self._cached, 0, 0, os.POSIX_FADV_RANDOM)
            # To anyone else, mincore(2) reports all pages as cached.
            if self._size and (os.fstat(self._cached).st_uid == os.geteuid() or os.access(path, os.W_OK)):
                mapping = mmap.mmap(self._cached, self._size, access=mmap.ACCESS_READ)
                self._mapping = np.frombuffer(mapping, np.uint8)
            self._direct = _open_direct(path)
        except BaseException:
            self.close()
            raise

    def read(self, start: int) -> memoryview:
        """At most 4 MiB from ``start`` on; valid until the next call."""
        count = min(_PIECE_BYTES, self._size - start)
        resident = None if self._mapping is None else _resident(self._mapping, start, count)
        if self._direct >= 0 and not (resident is not None and all(resident)):
            try:
                got = os.preadv(self._direct, [self._buffer], start)  # whole blocks; the last one ends with the file
                if got >= count:
                    return memoryview(self._buffer)[:count]
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            os.close(self._direct)  # a file system that only seemed to support it
            self._direct = -1
        got = 0
        while got < count:
            more = os.preadv(self._cached, [memoryview(self._buffer)[got:count]], start + got)
            if not more:
                break
            got += more
        if resident is not None:
            self._drop(start, resident)
        return memoryview(self._buffer)[:got]

    def _drop(self, start: int, resident: bytes) -> None:
        for page, there in enumerate(resident):
            if not there:
                os.posix_fadvise(self._cached, start + page * mmap.PAGESIZE, mmap.PAGESIZE, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        for descriptor in (self._cached, self._direct):
            if descriptor >= 0:
                os.close(descriptor)
        self._mapping = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_direct(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return -1


def _resident(mapping: NDArray[np.uint8], start: int, count: int) -> bytes | None:
    """Whether each page is in memory; None if that cannot be determined."""
    pages = (ctypes.c_ubyte * -(-count // mmap.PAGESIZE))()
    address = ctypes.c_void_p(mapping.ctypes.data + start)
    failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(count), pages)
    return None if failed else bytes(page & 1 for page in pages)
