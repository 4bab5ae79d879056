"""Digests of a publication by reference, taken after it was announced."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable

import attrs

from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.by_reference import PublishedByReference
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.weights.sha256 import sums

__all__ = ["BackgroundDigests", "DigestTerms"]

_log = logging.getLogger(__name__)


@attrs.frozen
class DigestTerms:
    """What digests are wanted, and until when.

    Attributes:
        sha256: Whether the SHA-256 of each tensor is wanted too.
        deadline_s: Bound of taking and storing them, seconds.
        ttl_s: Life of what is stored until a lease renews it, seconds.
    """

    sha256: bool
    deadline_s: float
    ttl_s: int


class _StoppedError(Exception):
    pass


class BackgroundDigests:
    """A thread that takes the digests of all chunks, waits until they are served, and stores their digests.

    A publication by reference copies nothing, so that it can be announced at once; reading all bytes for their digests
    would take the most of its time. A reader that is faster than this waits for them, and loads nothing unverified.

    Attributes:
        digest: Of the content, once it is settled and if sums are taken.
        chunks: Digest of each chunk, once it is settled.
    """

    def __init__(
        self, published: PublishedByReference, peer: Peer, terms: DigestTerms, give_up: Callable[[str], None]
    ) -> None:
        """Start the thread.

        Args:
            published: The tensors.
            peer: What serves them.
            terms: What is wanted.
            give_up: Called if the chunks cannot be served or verified; it must not wait for this thread.
        """
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._settled = False
        self.digest: str | None = None
        self.chunks: array[int] | None = None
        # As arguments of the thread, which lets go of them, and so of the tensors, when it ends.
        self._thread = threading.Thread(
            target=self._run, args=(published, peer, terms, give_up), name="yr-fastload-settle", daemon=True
        )
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

    def _run(
        self, published: PublishedByReference, peer: Peer, terms: DigestTerms, give_up: Callable[[str], None]
    ) -> None:
        generation = published.generation
        try:
            self._settle(published, peer, terms)
            self._settled = True
        except _StoppedError:
            return
        except Exception as error:
            if not self._stopped.is_set():
                _log.error("withdrawing generation %s: %s", generation.manifest.generation, error)
                give_up(str(error))
        finally:
            self._over.set()

    def _settle(self, published: PublishedByReference, peer: Peer, terms: DigestTerms) -> None:
        chunks, generation = published.chunks, published.generation
        deadline = Deadline(terms.deadline_s, "publish")
        digests = chunks.digests(terms.deadline_s, progress=self._check)
        sha256 = sums(chunks.table, chunks.copy_threads, self._check) if terms.sha256 else None
        peer.wait_served(deadline.left())
        self._check()
        changed = published.written()
        if changed:
            raise RuntimeError(f"tensors changed while they were being published: {changed[:3]}")
        published.catalogue.store_digests(generation, digests, sha256, ttl_s=terms.ttl_s, deadline=deadline)
        self.chunks = array("Q", digests)
        if sha256 is not None:
            self.digest = generation.manifest.content_digest(generation.who, sha256)
