"""Digests of a by-reference publication, taken after it was announced."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable
from typing import Any

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Catalogue, Generation
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.tensors import TensorTable

__all__ = ["Settling", "versions"]

_log = logging.getLogger(__name__)


def versions(table: TensorTable) -> list[int] | None:
    """A number for each tensor that grows when it is written to; None if one of them has none.

    Those of torch have one, except tensors made in inference mode.
    """
    try:
        return [int(tensor.owner._version) for tensor in table.tensors]  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return None


class _StoppedError(Exception):
    pass


class Settling:
    """A thread that waits until all chunks are served, takes their digests and stores them.

    A publication by reference copies nothing, so that it can be announced at once; reading all bytes for their digests
    would take the most of its time. A reader that is faster than this waits for them, and loads nothing unverified.

    Attributes:
        digest: Of the content, once it is settled and if sums are taken.
        chunks: Digest of each chunk, once it is settled.

    Args:
        take: Digest of each chunk; its argument is called now and then and raises to stop it.
        sums: The SHA-256 of each tensor, likewise, if that is wanted.
        give_up: Called if the chunks cannot be served or verified; it must not wait for this thread.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        generation: Generation,
        source: _core.D2dSource,
        table: TensorTable,
        published_versions: list[int] | None,
        take: Callable[[Callable[[int, int], None]], memoryview],
        sums: Callable[[Callable[[], None]], list[str]] | None,
        give_up: Callable[[str], None],
        deadline_s: float,
        ttl_s: int,
    ) -> None:
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._settled = False
        self.digest: str | None = None
        self.chunks: array[int] | None = None
        self._arguments: Any = (
            catalogue,
            generation,
            source,
            table,
            published_versions,
            take,
            sums,
            give_up,
            deadline_s,
            ttl_s,
        )
        self._thread = threading.Thread(target=self._run, name="yr-fastload-settle", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Whether the digests are stored, as soon as that is known, at the latest after ``timeout_s``."""
        self._over.wait(timeout_s)
        return self._settled

    def stop(self) -> None:
        """Ask it to end early."""
        self._stopped.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for its end, which is near once the source was withdrawn."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _check(self, done: int = 0, total: int = 0) -> None:
        if self._stopped.is_set():
            raise _StoppedError

    def _run(self) -> None:
        catalogue, generation, source, table, before, take, sums, give_up, deadline_s, ttl_s = self._arguments
        self._arguments = None
        deadline = Deadline(deadline_s, "publish")
        try:
            digests = take(self._check)
            sha256 = None if sums is None else sums(self._check)
            source.wait(deadline_s=deadline.left())
            self._check()
            now = versions(table)
            if before is None or now is None:
                raise RuntimeError("tensors that do not tell when they are written to have their digests taken first")
            if now != before:
                changed = [t.name for t, old, new in zip(table.tensors, before, now, strict=True) if old != new]
                raise RuntimeError(f"tensors changed while they were being published: {changed[:3]}")
            catalogue.store_digests(generation, digests, sha256, ttl_s=ttl_s, deadline=deadline)
            self.chunks = array("Q", digests)
            if sha256 is not None:
                self.digest = generation.manifest.content_digest(generation.who, sha256)
            self._settled = True
        except _StoppedError:
            return
        except Exception as error:
            if not self._stopped.is_set():
                _log.error("withdrawing generation %s: %s", generation.manifest.generation, error)
                give_up(str(error))
        finally:
            self._over.set()
