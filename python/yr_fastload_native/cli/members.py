"""The workers of a cluster, as one machine sees them: those that are ready, and those that it has seen before."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from yr_fastload_native import _core
from yr_fastload_native.cli.reach import is_reachable
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.worker import WorkerStatus, pool_port
from yr_fastload_native.worker.running import Pool, pool_of

__all__ = ["Member", "members", "remember"]

_DIRECTORY_S = 10.0
_AT_ONCE = 16
_SEEN = "seen.json"  # in the home: address of a worker -> when it was seen to be ready last
_FORGOTTEN_S = 86400.0


@attrs.frozen
class Member:
    """A worker of the cluster.

    Attributes:
        address: ``HOST:PORT``.
        is_ready: Whether the directory says so.
        is_reachable: Whether it can be connected to from here.
        pool: How full its pool is; None if its machine does not say.
        seen_s: Seconds since it was seen to be ready.
    """

    address: str
    is_ready: bool
    is_reachable: bool
    pool: Pool | None
    seen_s: float


def members(worker: WorkerStatus) -> list[Member]:
    """All workers of the cluster of this machine's worker.

    The directory forgets those that are gone for longer than its timeout; here they stay for a day.

    Raises:
        UnavailableError: The directory does not answer.
        TransferTimeoutError: Nor in time.
    """
    ready = _core.ready_workers(_directory(worker), deadline_s=_DIRECTORY_S)
    seen, now = _remember(worker.home, ready), time.time()

    def member(address: str) -> Member:
        there = is_reachable(address)
        return Member(address, address in ready, there, pool(address) if there else None, max(0.0, now - seen[address]))

    def pool(address: str) -> Pool | None:
        here = address == worker.address
        return pool_of(worker.home / "datasystem" / "logs") if here else pool_port.ask(address)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(member, sorted(seen)))


def remember(worker: WorkerStatus) -> None:
    """Know later of the workers that there are now, if the directory says it."""
    with contextlib.suppress(FastLoadError):
        _remember(worker.home, _core.ready_workers(_directory(worker), deadline_s=_DIRECTORY_S))


def _directory(worker: WorkerStatus) -> str:
    return worker.etcd_address or worker.metastore_address


def _remember(home: Path, ready: Iterable[str]) -> dict[str, float]:
    """When each worker that is not forgotten was seen last, these now."""
    now, file = time.time(), home / _SEEN
    before: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError):
        before = {str(address): float(at) for address, at in json.loads(file.read_text()).items()}
    seen = {address: at for address, at in before.items() if now - at < _FORGOTTEN_S} | dict.fromkeys(ready, now)
    with contextlib.suppress(OSError):  # a home that was removed
        new = file.with_suffix(".new")
        new.write_text(json.dumps(seen))
        new.replace(file)
    return seen
