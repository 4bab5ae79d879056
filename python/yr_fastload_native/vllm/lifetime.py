"""Publications that end with their models.

A process may load one model after another, and the publication of a deleted one only takes room.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import Any

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.vllm import publishing

__all__ = ["Stay"]

_log = logging.getLogger("vllm.yr_fastload")

_lock = threading.Lock()
_stays: Counter[tuple[int, str]] = Counter()
# The garbage collector may delete a model at any time, with any lock held, and putting into this queue takes no lock.
_ended: queue.SimpleQueue[Stay] = queue.SimpleQueue()
_thread_of = 0  # process; a forked child has no thread


class Stay:
    """Ties a publication to a model's life; the last model of an identity to end withdraws it.

    Args:
        fast: The loader that publishes.
        identity: Of the weights.
    """

    def __init__(self, fast: FastLoader, identity: Mapping[str, Any]) -> None:
        self._fast = fast
        self._identity = identity
        self._key = (id(fast), Identity.of(identity, op="load").digest)
        with _lock:
            _stays[self._key] += 1
            _begin()

    def ends_with(self, model: object) -> None:
        """End it when a model is deleted."""
        weakref.finalize(model, self.end).atexit = False

    def end(self) -> None:
        """End it now; only the first call counts."""
        _ended.put(self)

    def withdraw_if_last(self) -> None:
        """Runs on its own thread, since it waits, even for a publication under way."""
        publishing.wait(self._fast.config.publish_deadline_s)
        with _lock:
            _stays[self._key] -= 1
            last = not _stays[self._key]
            publication = self._fast.publication(self._identity) if last else None
            if last:
                del _stays[self._key]
        if publication is not None and publication.state == "live":
            publication.close()
            _log.info("no longer a source of %s: its model is gone", self._identity.get("model"))


def _begin() -> None:
    global _thread_of
    if _thread_of != os.getpid():
        _thread_of = os.getpid()
        threading.Thread(target=_withdraw, name="yr-fastload-stays", daemon=True).start()


def _withdraw() -> None:
    while True:
        try:
            _ended.get().withdraw_if_last()
        except Exception as error:  # the next one must still be withdrawn
            _log.warning("a publication remains although its model is gone: %s", error)
