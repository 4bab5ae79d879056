"""A generation that can be read while its chunks are still being stored."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.arrivals import Arrivals
from yr_fastload_native.catalogue.catalogue import Catalogue, Generation
from yr_fastload_native.catalogue.manifest import Taken
from yr_fastload_native.checkpoints.mapped_file import MappedFile
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.transports.jobs import PublishJob

__all__ = ["Growing", "Growth", "OvertakenError"]

_log = logging.getLogger(__name__)

_END_S = 2.0


class OvertakenError(Exception):
    """Somebody else's generation is the current one since."""


@attrs.frozen
class Growing:
    """That a generation can be read while its chunks are still being stored.

    Attributes:
        check: Called with chunks and their digests before a reader is told of them; raises to have all taken back.
        announced: Called once readers find it.
        files: Says which mapped ones its tensors lie in.
    """

    check: Callable[[PublishJob, Sequence[tuple[int, int]]], None]
    announced: Callable[[], None]
    files: Callable[[], Sequence[MappedFile]]


class Growth:
    """One such generation: announced once there is room for it, under a lease of its own until all chunks are there.

    Args:
        catalogue: Where it is.
        generation: From `Catalogue.describe`, without digests.
        body: Its manifest.
        job: What is stored.
        growing: What is done on the way.
        replace: Whether it takes the place of another generation.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        generation: Generation,
        body: bytes,
        job: PublishJob,
        growing: Growing,
        *,
        replace: bool,
    ) -> None:
        self._catalogue = catalogue
        self._generation = generation
        self._body = body
        self._job = job
        self._growing = growing
        self._replace = replace
        self._arrivals = Arrivals(catalogue, generation)
        self._told: dict[int, int] = {}
        self._lease: _core.Lease | None = None

    def stored(self, chunks: Sequence[tuple[int, int]]) -> None:
        """Let chunks be read.

        Args:
            chunks: Each with its digest; none once there is room for all.

        Raises:
            OvertakenError: There is another generation.
            FastLoadError: As from the check, or from the store.
        """
        if chunks:
            self._growing.check(self._job, chunks)
            self._told |= dict(chunks)
            self._arrivals.tell(self._told, ttl_s=self._job.ttl_s, deadline=self._job.deadline)
        self._announce()

    def complete(self, digests: array[int], sha256: list[str] | None) -> Generation:
        """Tell that all chunks are there; the generation with its digests."""
        self._announce()
        job, generation = self._job, self._generation
        self._catalogue.store_digests(generation, memoryview(digests), sha256, ttl_s=job.ttl_s, deadline=job.deadline)
        self._arrivals.forget(job.deadline)
        return attrs.evolve(generation, digests=Taken(digests, sha256))

    def end(self) -> None:
        """Let go of its own lease: with no other, it is withdrawn. Idempotent, bounded, never raises."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.leave(deadline_s=self._job.deadline.spare(_END_S))
            except FastLoadError as error:
                _log.debug("a lease will end by itself: %s", str(error))

    def _announce(self) -> None:
        if self._lease is not None:
            return
        deadline = self._job.deadline
        if not self._catalogue.announce(self._generation, self._body, deadline, replace=self._replace):
            raise OvertakenError
        self._lease = self._catalogue.take_lease(self._generation, [], deadline, announced=True)
        self._growing.announced()
