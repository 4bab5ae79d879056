"""A point in monotonic time by which a call must end."""

from __future__ import annotations

import time

from yr_fastload_native.errors import TransferTimeoutError

__all__ = ["Deadline"]

_MOMENT_S = 0.5  # a call returns by its deadline plus one second


class Deadline:
    def __init__(self, seconds: float, op: str) -> None:
        self._at = time.monotonic() + seconds
        self._seconds = seconds
        self._op = op

    def left(self, why: str = "") -> float:
        """Seconds left.

        Args:
            why: What was in the way until now, for the error.

        Raises:
            TransferTimeoutError: None are left.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            late = f"not done within the deadline of {self._seconds} s"
            raise TransferTimeoutError(f"{late}; {why}" if why else late, op=self._op)
        return left

    def at_most(self, seconds: float) -> Deadline:
        """This deadline, or one in so many seconds if that is earlier."""
        other = Deadline(seconds, self._op)
        other._at = min(other._at, self._at)
        return other

    def spare(self, most: float) -> float:
        """Seconds for cleanup: the rest and a moment more, ``most`` at most; 0 once that is over.

        With 0, a call to the worker is made but not waited for.
        """
        return max(0.0, min(most, self._at + _MOMENT_S - time.monotonic()))
