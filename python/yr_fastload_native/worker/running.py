"""What can be learned of a worker that runs on this machine, whoever started it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import attrs
import psutil

__all__ = ["Pool", "flags_of", "pool_in", "pool_of"]

_NAME = "datasystem_worker"
_POOL_FIELD = 7  # of a line of resource.log (0.8.1): used/total/capacity/...


@attrs.frozen
class Pool:
    """The shared memory of a worker, bytes; at most ten seconds old.

    Attributes:
        used: By objects.
        size: Of all.
    """

    used: int
    size: int

    @property
    def free(self) -> int:
        """Of these, how many are left."""
        return max(0, self.size - self.used)


def flags_of(address: str) -> dict[str, str] | None:
    """The flags of the worker that listens there; None if none is seen from here.

    Args:
        address: ``HOST:PORT`` that it was given.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() != _NAME or not _shares_our_network(process.pid):
                continue
            found = _parsed(process.cmdline()[1:])
            if found.get("worker_address") == address:
                return found
    return None


def _shares_our_network(pid: int) -> bool:
    """False for a process of a container, whose address may be somebody else's here."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/net", "/proc/self/ns/net")
    except OSError:  # another user's
        return True


def _parsed(words: list[str]) -> dict[str, str]:
    """Of ``--name=value``, as dscli starts it."""
    pairs = [word.lstrip("-").partition("=") for word in words if word.startswith("--")]
    return {name: value for name, _, value in pairs}


def pool_of(logs: Path) -> Pool | None:
    """What a worker has noted last in its logs; None if there is nothing yet, or it cannot be read.

    Args:
        logs: Directory of its logs.
    """
    with contextlib.suppress(OSError):
        return pool_in((logs / "resource.log").read_text())
    return None


def pool_in(noted: str) -> Pool | None:
    """What the last line of such a log says; None if that is nothing."""
    with contextlib.suppress(ValueError, IndexError):
        used, _, size, *_ = noted.splitlines()[-1].split("|")[_POOL_FIELD].split("/")
        return Pool(int(used), int(size))
    return None
