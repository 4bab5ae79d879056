"""The chunks of a generation that is still being stored, as they can be read."""

from __future__ import annotations

import time
from array import array

from yr_fastload_native.catalogue.arrivals import Arrivals
from yr_fastload_native.catalogue.catalogue import SupersededError
from yr_fastload_native.errors import PartialTransferError, TransferTimeoutError
from yr_fastload_native.process.deadline import Deadline

__all__ = ["Arriving", "LateError"]

_POLL_S = 0.02


class LateError(TransferTimeoutError):
    """No chunk has come for too long; those that have come can be read."""


class Arriving:
    """Knows which chunks there are. Not thread-safe.

    Args:
        arrivals: What the publisher tells.
        digests: Of each chunk; filled in as they are told.
        patience_s: How long chunks are waited for while none comes, seconds.
    """

    def __init__(self, arrivals: Arrivals, digests: array[int], patience_s: float) -> None:
        self._arrivals = arrivals
        self._digests = digests
        self._patience_s = patience_s
        self._came: set[int] = set()
        self._is_over = False
        self._is_late = False

    def has(self, chunk: int) -> bool:
        return chunk in self._came

    def wait(self, chunk: int) -> None:
        """Wait for a chunk as long as others come.

        Raises:
            PartialTransferError: Its publisher is gone.
            LateError: None came for too long; from then on it is not waited until another comes.
            TransferTimeoutError: The worker does not answer in time.
            UnavailableError: Nor at all.
            IntegrityError: What is told is damaged.
        """
        end = time.monotonic() + (0 if self._is_late else self._patience_s)
        while not self.has(chunk):
            if self._look():
                self._is_late = False
                end = time.monotonic() + self._patience_s
            elif time.monotonic() > end:
                self._is_late = True
                raise LateError(f"no chunk came for {self._patience_s:g} s", op="checkpoint")
            else:
                time.sleep(_POLL_S)

    def _look(self) -> bool:
        """Whether there is news."""
        try:
            if self._is_over:
                raise SupersededError
            digests, _ = self._arrivals.look(Deadline(self._patience_s, "checkpoint"), op="checkpoint")
        except SupersededError:
            self._is_over = True
            raise PartialTransferError("its publisher has gone before all of it was there", op="checkpoint") from None
        new = digests.keys() - self._came
        for chunk in new:
            self._digests[chunk] = digests[chunk]
        self._came |= new
        return bool(new)
