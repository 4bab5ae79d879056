"""This process's loader for each set of settings, and a record of its exchanges."""

from __future__ import annotations

import logging
import os
import socket
import threading
from typing import Any

import attrs

from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.process.poller import Poller
from yr_fastload_native.settings import Config
from yr_fastload_native.vllm import reports

__all__ = ["loader_for_files", "loader_of", "outcomes", "record", "watch_leases"]

_log = logging.getLogger("vllm.yr_fastload")

_lock = threading.Lock()
_loaders: dict[tuple[int, Config], FastLoader] = {}
_outcomes: list[dict[str, Any]] = []
_watched: dict[tuple[int, str], _Leases] = {}


def loader_of(config: Config) -> FastLoader:
    """The loader for these settings. It and its publications live until the process ends.

    Raises:
        UnavailableError: No worker answers, or none could be started.
    """
    key = (os.getpid(), config)  # a forked child creates its own
    with _lock:
        if key not in _loaders:
            _loaders[key] = FastLoader(config)
        return _loaders[key]


def loader_for_files(config: Config) -> FastLoader:
    """The loader of the weights, unless they go by a transport that files cannot."""
    if config.transport not in ("auto", "host"):
        config = attrs.evolve(config, transport="host", publish_as="host")
    return loader_of(config)


def record(event: str, outcome: dict[str, Any], report: str) -> None:
    """Record what an exchange did, and write it to the report file if there is one."""
    kept = {"event": event, "pid": os.getpid(), "host": socket.gethostname(), **outcome}
    _outcomes.append(kept)
    if not report:
        return
    try:
        reports.append(report, kept)
    except OSError as error:
        _log.warning("cannot write to report=%r: %s", report, error)


def watch_leases(report: str) -> None:
    """From now on, write to the report file which leases of this process are in trouble, whenever that changes."""
    key = (os.getpid(), report)  # a forked child has no threads
    with _lock:
        if report and key not in _watched:
            _watched[key] = _Leases(report)


def outcomes() -> list[dict[str, Any]]:
    """What this process's exchanges did, in order; plain types."""
    return list(_outcomes)


class _Leases:
    """Of all loaders of this process."""

    def __init__(self, report: str) -> None:
        self._report = report
        self._told: set[str] = set()
        self._poller = Poller(self._look)

    def _look(self) -> bool:
        with _lock:
            mine = [loader for (pid, _), loader in _loaders.items() if pid == os.getpid()]
        trouble: dict[str, str] = {}
        for loader in mine:
            trouble |= loader.lease_trouble()
        if trouble.keys() != self._told:  # its words may be others each time
            self._told = set(trouble)
            record("leases", {"trouble": trouble}, self._report)
        return True
