"""One load: what is published, whether it may be loaded, and its transfer."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from yr_fastload_native.catalogue.catalogue import Generation
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.errors import DeviceError, LayoutMismatchError
from yr_fastload_native.loading.transfer import Outcome, Transfer
from yr_fastload_native.loading.trust import Trust
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.by_reference import PublishedByReference
from yr_fastload_native.publishing.publication import Publication, PublicationParts
from yr_fastload_native.reporting.load_report import LoadReport, Step
from yr_fastload_native.reporting.timeline import Timeline
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.jobs import LoadJob, Request, StoreSession
from yr_fastload_native.transports.selection import Candidate, to_try
from yr_fastload_native.transports.wanted import WantedChunks

__all__ = ["Pulled", "Puller"]


@attrs.frozen
class Pulled:
    """What a load ended with.

    Attributes:
        peer: This process's part in serving it by reference, if it has one.
        published: What it serves then.
        digest: Of the content, if it was compared with a trusted one.
    """

    generation: Generation
    outcome: Outcome
    peer: Peer | None
    published: PublishedByReference | None
    digest: str | None

    @property
    def can_be_served(self) -> bool:
        """Whether others can have it of this process, or of the store by its keeping."""
        offered = registry.named(self.generation.transports)
        return self.peer is not None or not all(transport.by_reference for transport in offered)

    def join(self, worker: StoreSession, deadline: Deadline, report: LoadReport) -> Publication:
        """Keep the generation published, as one more source of it."""
        generation, peer = self.generation, self.peer
        manifest = generation.manifest
        keys = registry.data_keys(generation.who, manifest.generation, len(manifest.chunks), generation.transports)
        try:
            lease = worker.catalogue.take_lease(generation, keys, deadline, held=None if peer is None else peer.held)
        except BaseException:
            if peer is not None:
                peer.leave(deadline)
            raise
        if peer is not None:
            peer.start()
        return Publication(
            PublicationParts(
                generation=generation,
                lease=lease,
                joined=True,
                size=report.bytes,
                seconds=report.seconds,
                lease_s=worker.config.lease_s,
                store=worker.catalogue.store,
                peer=peer,
                served=self.published,
                digest=self.digest,
            )
        )


class Puller:
    """One load of one identity.

    Attributes:
        timeline: What was done when.
        steps: What became of each transport, those of generations that were replaced meanwhile included.
        memory_written: Whether some tensors may have been written to.
    """

    def __init__(
        self, request: Request, trusted: frozenset[str] | None, timeline: Timeline, files: dict[str, str]
    ) -> None:
        self._request = request
        self._worker = request.worker
        self._who = request.who
        self._table = request.table
        self._context = request.context
        self._deadline = request.deadline
        self._trusted = trusted
        self._files = files
        self.timeline = timeline
        self.steps: list[Step] = []
        self.memory_written = False

    def pull(self) -> Pulled:
        """Load the current generation.

        Raises:
            SupersededError: It was replaced or withdrawn meanwhile; start again.
        """
        catalogue, deadline = self._worker.catalogue, self._deadline
        with self.timeline.stage("manifest"):
            head, names = catalogue.head(self._who, deadline, op="load")
        candidates = self._candidates(names.transports)
        usable = [candidate.transport for candidate in candidates if candidate.why_not is None]
        peer = registry.peer_of(usable, self._worker, self._who, names.generation, self._context)
        with self.timeline.stage("manifest"):
            generation, beside = catalogue.read(
                self._who,
                head,
                names,
                deadline,
                op="load",
                mine=self._table,
                beside=[] if peer is None else peer.first_keys(),
            )
        try:
            pulled = self._pull(generation, candidates, peer, beside)
        except BaseException:
            if peer is not None:
                peer.leave(deadline)
            raise
        if pulled.peer is None and peer is not None:
            peer.leave(deadline)
        return pulled

    def _candidates(self, offered: Sequence[str]) -> list[Candidate]:
        candidates = to_try(self._worker.config, offered, self._context.kind)
        if all(candidate.why_not is not None for candidate in candidates):
            raise DeviceError(
                f"published by {' and '.join(offered)}, which cannot be used here: "
                + "; ".join(f"{each.transport.name}: {each.why_not}" for each in candidates),
                op="load",
                failed_keys=[self._who.head_key],
            )
        return candidates

    def _pull(
        self, generation: Generation, candidates: Sequence[Candidate], peer: Peer | None, beside: Sequence[bytes | None]
    ) -> Pulled:
        worker, manifest, hold = self._worker, generation.manifest, self._worker.config.hold
        self._check_files(generation)
        trust = None
        if self._trusted is not None:
            trust = Trust.of(generation, self._trusted, worker.catalogue, self._deadline)
        if peer is not None:
            with self.timeline.stage("setup"):
                peer.approach(beside, self._deadline, hold=hold)
        with self.timeline.stage("layout"):
            manifest.check_layout(self._table, op="load")
            plan = manifest.plan()
        job = self._request.to_load(generation, plan, self.timeline)
        outcome = self._transfer(job, candidates, peer)
        if trust is not None:
            trust.compare(job)
        digest = None if trust is None else trust.digest
        if peer is None or not hold or peer.left:
            return Pulled(generation, outcome, None, None, digest)
        published = PublishedByReference(worker.catalogue, generation, job.chunks, self._table.versions())
        return Pulled(generation, outcome, peer, published, digest)

    def _transfer(self, job: LoadJob, candidates: Sequence[Candidate], peer: Peer | None) -> Outcome:
        wanted = WantedChunks(job, peer)
        transfer = Transfer(wanted)
        try:
            return transfer.run(candidates)
        finally:
            self.steps += transfer.steps
            self.memory_written |= wanted.memory_written

    def _check_files(self, generation: Generation) -> None:
        """Refuse weights that were read from other files than this process has, where both are known."""
        wrong = differing(self._files, generation.files or {})
        if wrong:
            raise LayoutMismatchError(
                f"{len(wrong)} of {len(self._files)} files are not those that were published, such as {wrong[0]!r}",
                op="load",
                failed_keys=wrong,
            )
