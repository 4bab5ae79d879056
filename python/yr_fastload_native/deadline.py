"""A point of monotonic time that a call must not outlive."""

from __future__ import annotations

import time

from yr_fastload_native.errors import TransferTimeoutError

__all__ = ["Deadline"]


class Deadline:
    def __init__(self, seconds: float, op: str) -> None:
        self._at = time.monotonic() + seconds
        self._seconds = seconds
        self._op = op

    def left(self) -> float:
        """Seconds left.

        Raises:
            TransferTimeoutError: None are.
        """
        left = self._at - time.monotonic()
        if left <= 0:
            raise TransferTimeoutError(f"not done within the deadline of {self._seconds} s", op=self._op)
        return left
