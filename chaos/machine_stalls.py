"""Whether this machine lets processes run: a thread that is to wake up twenty times a second, and how late it is."""

from __future__ import annotations

import threading
import time

__all__ = ["MachineStalls"]

_BEAT_S = 0.05
_LATE_S = 0.05  # what an idle machine of two cores shows too


class MachineStalls(threading.Thread):
    """Notes until the block ends when nobody could run."""

    def __init__(self) -> None:
        super().__init__(name="machine-stalls", daemon=True)
        self._late: list[tuple[float, float]] = []  # when, by how much
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            due = time.monotonic() + _BEAT_S
            time.sleep(_BEAT_S)
            now = time.monotonic()
            if now - due > _LATE_S:
                self._late.append((now, now - due))

    def lag(self, since: float, until: float) -> float:
        """Seconds of a time that nobody got: a process that was to do something in it could not."""
        return sum(late for at, late in list(self._late) if since <= at <= until + late)

    def __enter__(self) -> MachineStalls:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
