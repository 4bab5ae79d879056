"""The bytes of one load: transports one after the other, each for what those before it did not bring."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import attrs

from yr_fastload_native.errors import (
    DeviceError,
    FastLoadError,
    IntegrityError,
    NotPublishedError,
    PartialTransferError,
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.reporting.load_report import Step
from yr_fastload_native.transports.jobs import LoadJob
from yr_fastload_native.transports.selection import Candidate
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks

__all__ = ["Outcome", "Transfer"]

# What one transport may fail with while another one still works.
_NEXT_TRANSPORT = (
    DeviceError,
    IntegrityError,
    NotPublishedError,
    PartialTransferError,
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)


@attrs.frozen
class Outcome:
    """How a transfer ended: all chunks are here.

    Attributes:
        steps: What became of each transport.
        chunks_retried: How many chunks were asked for again.
        bytes_aliased: Of tensors that use the worker's memory itself.
    """

    steps: tuple[Step, ...]
    chunks_retried: int
    bytes_aliased: int

    @property
    def transport(self) -> str:
        """The one that brought the most bytes."""
        return max((step for step in self.steps if step.outcome != "skipped"), key=lambda step: step.bytes).transport


@attrs.frozen
class _End:
    """How the attempts so far ended: the last one with an error, or with chunks that failed, or with neither."""

    error: FastLoadError | None = None
    failures: Sequence[Failure] = ()


class Transfer:
    """One transfer.

    Attributes:
        steps: What became of each transport so far.
    """

    def __init__(self, wanted: WantedChunks) -> None:
        self._wanted = wanted
        self.steps: list[Step] = []

    def run(self, candidates: Iterable[Candidate]) -> Outcome:
        """Bring all chunks.

        Raises:
            SupersededError: The generation was replaced or withdrawn meanwhile.
            FastLoadError: No transport could bring all of them.
        """
        end = _End()
        for candidate in candidates:
            if candidate.why_not is not None:
                self._skip(candidate, candidate.why_not)
            elif not self._wanted and any(step.outcome != "skipped" for step in self.steps):
                self._skip(candidate, "nothing was left to load")
            else:
                end = self._try(candidate, end)
            if end.error is not None:
                self._wanted.job.deadline.left(str(end.error))  # raises once nothing more can be tried
        if end.error is not None:
            raise end.error
        if end.failures:
            raise _error(self._wanted.job, end.failures)
        self._wanted.serve_all()
        return Outcome(tuple(self.steps), self._wanted.retried, self._wanted.aliased_bytes)

    def _skip(self, candidate: Candidate, why: str) -> None:
        self.steps.append(Step(candidate.transport.name, "skipped", why))

    def _try(self, candidate: Candidate, before: _End) -> _End:
        started, attempt = time.perf_counter(), Attempt()
        if before.error is not None or before.failures:
            self._wanted.retried += len(self._wanted)
        try:
            failures = candidate.transport.load(self._wanted, attempt)
            end, outcome, why = _End(failures=failures), "loaded", attempt.note
            if failures:
                outcome, why = "partial", failures[0].detail
        except _NEXT_TRANSPORT as error:
            end, outcome, why = _End(error, before.failures), "failed", str(error)
        seconds = time.perf_counter() - started
        self.steps.append(Step(candidate.transport.name, outcome, why, attempt.bytes, seconds, tuple(attempt.sources)))
        return end


def _error(job: LoadJob, failures: Sequence[Failure]) -> FastLoadError:
    """The error for chunks that did not come: damaged bytes weigh more than missing ones."""
    plan, manifest = job.plan, job.generation.manifest
    damaged = [failure for failure in failures if failure.code == IntegrityError.code]
    kind: type[FastLoadError] = IntegrityError if damaged else PartialTransferError
    shown = (damaged or failures)[0]
    tensors = manifest.chunk_tensors(plan, shown.chunk)
    names = ", ".join(tensors[:2]) + (f", +{len(tensors) - 2}" if len(tensors) > 2 else "")
    return kind(
        f"{len(failures)}/{plan.chunks} chunks failed, asked for again where there was somebody to ask: {shown.code}: "
        f"chunk {shown.chunk} of {manifest.publisher} {shown.detail} [{names}]",
        op="load",
        failed_keys=[manifest.chunks[failure.chunk].key for failure in failures],
    )
