"""What the file system reports about a file; while that is unchanged, nobody has written to the file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["FileState"]

_SETTLED_NS = 2_000_000_000  # coarser than the clock of any file system we know


class FileState(NamedTuple):
    """Device, inode, size in bytes, and times in nanoseconds."""

    device: int
    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: Path | int) -> FileState:
        """The state of a path, links followed, or of a descriptor.

        Raises:
            OSError: There is no such file.
        """
        found = os.stat(file)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @property
    def key(self) -> str:
        """A short name for this state, hexadecimal."""
        return hashlib.sha256(":".join(map(str, self)).encode()).hexdigest()

    @property
    def settled(self) -> bool:
        """Whether any later write would change it; one in the same clock tick as the last might not."""
        return max(self.written_ns, self.changed_ns) + _SETTLED_NS < time.time_ns()
