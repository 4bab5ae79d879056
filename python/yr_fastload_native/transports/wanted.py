"""The chunks that a load still wants, and what transports do with them: read, verify, and say what failed."""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left
from collections.abc import Callable, Container, Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import SupersededError
from yr_fastload_native.errors import FastLoadError, IntegrityError
from yr_fastload_native.reporting.load_report import AskedSource
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.jobs import LoadJob

__all__ = ["Attempt", "Failure", "WantedChunks"]

_log = logging.getLogger(__name__)


@attrs.frozen
class Failure:
    """A chunk that did not come, or came damaged.

    Attributes:
        code: Of the error that it would be: see `FastLoadError.code`.
        detail: What happened, for messages.
    """

    chunk: int
    code: str
    detail: str


@attrs.define
class Attempt:
    """What one transport has done for a load so far; it outlives an error that ends it.

    Attributes:
        bytes: That it brought.
        sources: Whom it asked.
        note: What else is worth saying in the report.
    """

    bytes: int = 0
    sources: list[AskedSource] = attrs.field(factory=list)
    note: str | None = None


class WantedChunks:
    """Chunks of a load that no transport has brought yet.

    Attributes:
        job: The load.
        peer: By which this process reads and serves by reference.
        numbers: Of the chunks.
        retried: How many chunks were asked for again.
        aliased_bytes: Of tensors that use the worker's memory itself.
        memory_written: Whether some tensors may have been written to.
    """

    def __init__(self, job: LoadJob, peer: Peer | None) -> None:
        self.job = job
        self.peer = peer
        self.numbers = array("Q", range(job.plan.chunks))
        self.retried = 0
        self.aliased_bytes = 0
        self.memory_written = False
        taken = job.generation.digests
        self._digests = None if taken is None else taken.chunks
        if peer is not None and job.worker.config.hold:
            peer.serve(job.plan, job.chunks.addresses, job.table.memory())
            peer.start_when_asked()

    def __len__(self) -> int:
        return len(self.numbers)

    def drop(self, chunks: Container[int]) -> None:
        """These have come by another way than `read`."""
        self.numbers = array("Q", [chunk for chunk in self.numbers if chunk not in chunks])

    def begin_with(self, chunk: int) -> None:
        """Read this one first, then those behind it, and those before it last."""
        cut = bisect_left(self.numbers, chunk)
        self.numbers = self.numbers[cut:] + self.numbers[:cut]

    def read(self, reader: _core.ChunkReader, attempt: Attempt) -> list[Failure]:
        """Read all that is wanted into the tensors, and verify it; returns what is wanted still.

        Raises:
            FastLoadError: The reader cannot go on, or the deadline is over.
        """
        job, config = self.job, self.job.worker.config
        wants_digest, stages = config.verify == "digest", config.staging == "always"
        by_the_way = job.context.device.verifies_on_the_way
        # In staging memory chunks are looked at even where the tensors have to be looked at afterwards.
        expected = self._digests if wants_digest and (by_the_way or stages) else None
        self.memory_written = True
        loaded, verified, spans, missing = _core.load_chunks(
            reader,
            job.context.device,
            job.context.pool,
            job.plan,
            job.chunks.addresses,
            self.numbers,
            digests=array("Q") if expected is None else expected,
            copy_threads=job.worker.copy_threads,
            chunks_in_flight=config.chunks_in_flight,
            verify=expected is not None,
            stage=stages,
            deadline_s=job.deadline.left(),
            progress=job.progress,
            source=self._source if not wants_digest or (by_the_way and expected is not None) else None,
            digest=job.chunks.digest,
            locked=job.context.locked,
        )
        job.timeline.add(spans, job.plan.chunk_bytes)
        failures = [Failure(*each) for each in missing]
        if wants_digest and not verified:
            with job.timeline.stage("digest", loaded):
                failures += self._verify({failure.chunk for failure in failures})
        attempt.bytes += loaded
        self.numbers = array("Q", [failure.chunk for failure in failures])
        return failures

    def read_twice(self, make: Callable[[LoadJob], _core.ChunkReader], attempt: Attempt) -> list[Failure]:
        """As `read`, and what failed once more with another reader."""
        failures = self.read(make(self.job), attempt)
        if failures:
            self.check_current()
            self.retried += len(failures)
            failures = self.read(make(self.job), attempt)
        return failures

    def want_again(self, chunks: array[int]) -> None:
        """What `read` has brought is not to be relied on: these are wanted still."""
        self.numbers = chunks

    def check_current(self) -> None:
        """Before anything is asked for again.

        Raises:
            SupersededError: The generation was replaced or withdrawn.
        """
        if not self.job.worker.catalogue.is_current(self.job.generation, self.job.deadline):
            raise SupersededError

    @property
    def _source(self) -> _core.D2dSource | None:
        return None if self.peer is None else self.peer.source

    def _verify(self, missing: Container[int]) -> list[Failure]:
        """Compare what arrived with the publisher's digests, where that could not be done on the way."""
        job = self.job
        arrived = [chunk for chunk in self.numbers if chunk not in missing]
        values = job.chunks.digests(job.deadline.left(), chunks=arrived)
        if self._digests is None:
            self._digests = job.worker.catalogue.wait_for_digests(job.generation, job.deadline, op="load").chunks
        wrong = []
        for chunk, value in zip(arrived, values, strict=True):
            if value != self._digests[chunk]:
                wrong.append(Failure(chunk, IntegrityError.code, "does not match its digest"))
            elif self._source is not None:
                self._source.offer(chunk)
        return wrong

    def move_away(self, chunks: Sequence[int]) -> None:
        """Give the tensors of chunks that may still be written to other memory, and serve none of the old."""
        table, plan = self.job.table, self.job.plan
        places = self.job.generation.manifest.places_in(table)
        touched = {places[blob.tensor] for chunk in chunks for blob in plan.chunk(chunk)}
        _log.warning("a transfer was abandoned: %d tensors get other memory", len(touched))
        table.replace_memory(touched)
        self.job.context.synchronize()  # their bytes are there before others follow
        if self.peer is not None:
            self.peer.stop_serving(self.job.deadline)

    def serve_all(self) -> None:
        """Serve what has come, anew if the source was given up on the way."""
        if self.peer is not None and self.peer.source is None and self.job.worker.config.hold:
            job = self.job
            try:
                self.peer.serve_all(job.plan, job.chunks.addresses, job.table.memory(), job.deadline)
            except FastLoadError as error:  # the weights are here all the same
                _log.debug("no source will come of this load: %s", str(error))
                self.peer.leave(job.deadline)
