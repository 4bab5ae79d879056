"""The one loader of this process for each set of settings, and what exchanges did."""

from __future__ import annotations

import os
import threading
from typing import Any

from yr_fastload_native.config import Config
from yr_fastload_native.loader import FastLoader

__all__ = ["loader_of", "outcomes", "record"]

_lock = threading.Lock()
_loaders: dict[tuple[int, Config], FastLoader] = {}
_outcomes: list[dict[str, Any]] = []


def loader_of(config: Config) -> FastLoader:
    """The loader for these settings; publications live as long as it does, to the end of this process.

    Raises:
        UnavailableError: No worker answers, or none could be started.
    """
    key = (os.getpid(), config)  # a forked child makes its own
    with _lock:
        if key not in _loaders:
            _loaders[key] = FastLoader(config)
        return _loaders[key]


def record(outcome: dict[str, Any]) -> None:
    """Keep what one exchange did."""
    _outcomes.append(outcome)


def outcomes() -> list[dict[str, Any]]:
    """What the exchanges of this process did, in order: plain types."""
    return list(_outcomes)


def loaders() -> list[FastLoader]:
    """The loaders of this process."""
    with _lock:
        return [loader for (pid, _), loader in _loaders.items() if pid == os.getpid()]
