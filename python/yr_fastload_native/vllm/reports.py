"""The file to which every rank of an instance appends what it loaded and published: setting ``report``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from yr_fastload_native.errors import FastLoadError, TransferTimeoutError

__all__ = ["append", "events", "wait_until_published"]

_POLL_S = 0.1


def append(path: str, event: dict[str, Any]) -> None:
    """Append a line; ranks share the file.

    Raises:
        OSError: It cannot be written to.
    """
    with open(path, "a") as file:
        file.write(json.dumps(event, default=str) + "\n")  # one write of one line


def events(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """All events of a kind, by default of any: ``phase``, ``loading``, ``loaded``, ``published``, ``published
    checkpoint``, ``not published``, ``compared files``, ``wrong weights``, ``caches``, ``published caches``,
    ``published model``, ``leases``.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for event in map(json.loads, lines) if kind in (None, event["event"])]


def wait_until_published(path: Path, ranks: int, timeout_s: float, *, op: str, kind: str = "published") -> None:
    """Wait until so many ranks have published, which each says by an event of this kind.

    Raises:
        FastLoadError: A rank does not publish; the message says why.
        TransferTimeoutError: It took too long.
    """
    deadline = time.monotonic() + timeout_s
    while len(events(path, kind)) < ranks:
        refused = events(path, "not published")
        if refused:
            raise FastLoadError(f"the instance published nothing: {refused[0]['why']}", op=op)
        if time.monotonic() > deadline:
            raise TransferTimeoutError(f"the instance did not publish within {timeout_s:.0f} s", op=op)
        time.sleep(_POLL_S)
