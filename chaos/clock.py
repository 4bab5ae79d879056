"""What is preloaded into processes: their wall clocks, to be set (``clock.cpp``), and pauses (``pauses.cpp``)."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

__all__ = ["PAUSES", "Clock", "build_library"]

_SOURCE = Path(__file__).with_name("clock.cpp")
PAUSES = Path(__file__).with_name("pauses.cpp")


def build_library(directory: Path, source: Path = _SOURCE) -> Path:
    """Compile what is preloaded: the clock, or `PAUSES` for workers."""
    library = directory / f"{source.stem}.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


class Clock:
    """The wall clock of one process.

    Args:
        path: File by which that process is told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jump(0.0)

    def jump(self, seconds: float) -> None:
        """Be so far from the real time from now on."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(file, struct.pack("q", round(seconds * 1e9)), 0)
        os.close(file)
