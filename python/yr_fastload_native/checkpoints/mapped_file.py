"""A file in memory, page by page as it is read."""

from __future__ import annotations

import mmap
import os
import weakref
from pathlib import Path

from yr_fastload_native import _core

__all__ = ["MappedFile"]


class MappedFile(mmap.mmap):
    """A file of at least a byte, mapped for reading; open as long as it is mapped."""

    def __new__(cls, path: Path) -> MappedFile:
        with path.open("rb") as file:
            made = super().__new__(cls, file.fileno(), 0, access=mmap.ACCESS_READ)
            made._descriptor = os.dup(file.fileno())
        weakref.finalize(made, os.close, made._descriptor)
        made.madvise(mmap.MADV_SEQUENTIAL)
        return made

    _descriptor: int

    @property
    def place(self) -> tuple[int, int, int]:
        """The address that it is mapped at, its size in bytes, and its descriptor."""
        return _core.buffer_view(self).address, len(self), self._descriptor
