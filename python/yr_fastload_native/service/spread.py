"""On which node of a cluster the next server is to be: the one that has the least of what it could have."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping

from yr_fastload_native.service.remote import RemoteServer

__all__ = ["Spread"]

_AVOID_S = 60.0  # until a cluster has noticed that a node is gone


class Spread:
    """The servers of one launcher, by node. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starting: Counter[str] = Counter()
        self._servers: weakref.WeakSet[RemoteServer] = weakref.WeakSet()
        self._avoided: dict[str, float] = {}

    @contextlib.contextmanager
    def place(self, room: Mapping[str, float]) -> Iterator[str | None]:
        """The node for one more server, which is taken for granted until the block ends.

        Args:
            room: By node, how many such servers it could have if it had nothing else.

        Yields:
            None where none has room for one.
        """
        with self._lock:
            node = self._least(room)
            if node is not None:
                self._starting[node] += 1
        try:
            yield node
        finally:
            if node is not None:
                with self._lock:
                    self._starting[node] -= 1

    def add(self, server: RemoteServer) -> None:
        """Count a server until it is stopped."""
        with self._lock:
            self._servers.add(server)

    def avoid(self, node: str) -> None:
        """Prefer others for a minute: it lost a server with all that ran it."""
        with self._lock:
            self._avoided[node] = time.monotonic() + _AVOID_S

    def _least(self, room: Mapping[str, float]) -> str | None:
        now, count = time.monotonic(), Counter(self._starting)
        count.update(server.machine for server in self._servers if not server.is_stopped)

        def order(node: str) -> tuple[bool, float, str]:
            return self._avoided.get(node, 0.0) > now, (count[node] + 1) / room[node], node

        return min((node for node in room if room[node] >= 1), key=order, default=None)
