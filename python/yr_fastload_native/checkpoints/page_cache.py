"""Files in the page cache."""

from __future__ import annotations

import ctypes
import io
import mmap
import os
from pathlib import Path

import numpy as np

from yr_fastload_native.checkpoints.typed_reads import open_file

__all__ = ["drop_page_cache"]


def drop_page_cache(path: Path) -> int:
    """Drop a file from the page cache, so that it is next read from disk.

    Returns:
        Bytes that stayed in memory anyway (a file system in memory, or a file mapped by some process). To that extent
        the next read is a warm one. Linux reports the whole file as resident to users who neither own it nor may write
        to it (mincore(2)).

    Raises:
        InvalidArgumentError: The file cannot be opened.
    """
    with open_file(path) as file:
        os.fsync(file.fileno())  # a page that is not yet written back cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _cached_bytes(file)


def _cached_bytes(file: io.FileIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if not size:
        return 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapping:
        resident = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        if ctypes.CDLL(None).mincore(
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(resident.ctypes.data)
        ):
            return size
    return min(size, int(np.count_nonzero(resident & 1)) * mmap.PAGESIZE)
