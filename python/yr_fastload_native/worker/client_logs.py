"""Where openYuanrong's client writes its logs: to a directory or, if there is none, to stderr."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.settings import Config
from yr_fastload_native.worker.home import Home

__all__ = ["give_directory"]

_log = logging.getLogger(__name__)


def give_directory() -> None:
    """Give the client a directory in the local worker's home if its default is not writable. Never raises.

    In a container with an arbitrary user, HOME may be / or somebody else's directory.
    """
    wanted = Config.client_log_directory()
    if wanted is None or _can_be_written(wanted):
        return
    try:
        home = Home(None)
        home.make("logs")
        Config.name_client_log_directory(home.path / "client")
    except (FastLoadError, OSError) as error:
        _log.debug("openYuanrong's client logs to stderr: %s", str(error))


def _can_be_written(directory: Path) -> bool:
    """Whether this user can write to it, or can create it, as the client would."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK | os.X_OK)
