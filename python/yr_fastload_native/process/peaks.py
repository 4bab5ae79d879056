"""How much of each limit was used."""

from __future__ import annotations

import threading

__all__ = ["Peaks"]


class Peaks:
    """The largest amount used of each thing. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._most: dict[str, int] = {}

    def note(self, name: str, amount: int) -> None:
        with self._lock:
            self._most[name] = max(amount, self._most.get(name, 0))

    def most(self, name: str) -> int:
        """The largest amount; 0 if none was used."""
        with self._lock:
            return self._most.get(name, 0)
