"""openYuanrong workers that may be killed, frozen and restarted, and whose clock may be set."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yr_fastload_native as fl
from chaos.clock import Clock
from yr_fastload_native import _core
from yr_fastload_native.settings import is_loopback, parse_address

if TYPE_CHECKING:
    from chaos.processes import Node

__all__ = ["Count", "LocalWorkers", "Worker", "Workers", "counts_in"]

Count = tuple[int, int]  # objects, and bytes of the pool that they take

_RPC_S = 5.0
_ASKING = "AsyncRequestPoo"  # AsyncRpcRequestManager::ReadLoop, 0.8.1
_BEHIND = 15
# Fields of a line of its resource.log.
_POOL = 7
_OBJECTS = 10


def counts_in(home: Path) -> list[Count]:
    """What a worker counted, by its own log: an entry every ten seconds of its life."""
    log = home / "datasystem" / "logs" / "resource.log"
    lines = log.read_text().splitlines() if log.exists() else []
    fields = [line.split("|") for line in lines]
    return [(int(each[_OBJECTS]), int(each[_POOL].split("/")[0])) for each in fields if len(each) > _OBJECTS]


class Worker:
    """One worker, its clock, and a connection to look at what it stores.

    Attributes:
        incarnation: How often it was restarted: what it stored before is gone.
    """

    def __init__(self, memory_mb: int, preloaded: Sequence[Path]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="yrfl-", dir="/tmp"))
        self.clock = Clock(self.home.parent / f"{self.home.name}.clock")
        self._memory_mb = memory_mb
        self._preloaded = ":".join(map(str, preloaded))
        self._store: _core.ObjectStore | None = None
        self.incarnation = 0
        self._start(0)

    def _start(self, port: int) -> None:
        # What is preloaded goes through the environment of this process.
        os.environ |= {"LD_PRELOAD": self._preloaded, "CHAOS_CLOCK": str(self.clock.path)}
        try:
            self._local = fl.LocalWorker(home=self.home, memory_mb=self._memory_mb, port=port).start()
        finally:
            del os.environ["LD_PRELOAD"], os.environ["CHAOS_CLOCK"]
        self.address = self._local.address
        status = fl.LocalWorker.status(self.home)
        assert status is not None
        self.pid = status.pid

    def calm(self) -> None:
        """Put threads that ask for events without a pause behind everybody else's.

        While clients for devices are connected several of them take a core each, and this machine may have two.
        """
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "comm").read_text().strip() == _ASKING:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), _BEHIND)

    def restart(self) -> None:
        """At the same address, with nothing in it."""
        self._store = None
        self.incarnation += 1
        self.signal(signal.SIGKILL)
        self._local.stop(force=True)
        self._start(parse_address(self.address, op="chaos")[1])

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def store(self) -> _core.ObjectStore:
        if self._store is None:
            self._store = self.connect(rpc_timeout_s=_RPC_S)
        return self._store

    def connect(self, *, rpc_timeout_s: float) -> _core.ObjectStore:
        host, port = parse_address(self.address, op="chaos")
        connection = _core.Connection(
            host, port, connect_timeout_s=_RPC_S, rpc_timeout_s=rpc_timeout_s, is_alone=is_loopback(host)
        )
        return _core.connect_host_store(connection)

    def counts(self) -> list[Count]:
        return counts_in(self.home)

    def close(self) -> None:
        self._store = None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self._local.stop(force=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self.clock.path.unlink(missing_ok=True)


class Workers(abc.ABC):
    """What processes of a campaign connect to; it ends with the block.

    Attributes:
        keeps_entries: Whether one may keep entries of objects, without memory, that nobody knows any more.
    """

    keeps_entries = False

    @property
    @abc.abstractmethod
    def life(self) -> object:
        """Another one once nothing can be there any more of what was stored."""

    @abc.abstractmethod
    def life_of(self, node: Node) -> object:
        """Another one once the worker has gone that a node is a client of."""

    @abc.abstractmethod
    def address_of(self, node: Node) -> str:
        """Of the worker that a node is a client of."""

    @abc.abstractmethod
    def exist(self, keys: Sequence[str]) -> list[bool]:
        """Which of these keys are stored.

        Raises:
            FastLoadError: Nobody answers.
        """

    @property
    @abc.abstractmethod
    def counts(self) -> Mapping[str, Callable[[], list[Count]]]:
        """By a worker's name, what that one counts of its objects."""

    @abc.abstractmethod
    def calm(self) -> None:
        """Put threads that take a core each behind everybody else's."""

    @abc.abstractmethod
    def replace(self) -> None:
        """Go on with another one, which stores nothing."""


class LocalWorkers(Workers):
    """The worker in use, and another one once that has ended."""

    def __init__(self, memory_mb: int, preloaded: Sequence[Path]) -> None:
        self._arguments = memory_mb, preloaded
        self.current = Worker(*self._arguments)

    @property
    def life(self) -> object:
        return self.current, self.current.incarnation

    def life_of(self, node: Node) -> object:
        return self.life

    def address_of(self, node: Node) -> str:
        return self.current.address

    def exist(self, keys: Sequence[str]) -> list[bool]:
        return self.current.store.exist(list(keys), deadline_s=_RPC_S)

    @property
    def counts(self) -> Mapping[str, Callable[[], list[Count]]]:
        return {"the worker": self.current.counts}

    def calm(self) -> None:
        self.current.calm()

    def replace(self) -> None:
        self.current.close()
        self.current = Worker(*self._arguments)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.current.close()
