"""One load: the transports of a generation one after the other, each for what those before it did not bring."""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Sequence
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Generation, SupersededError
from yr_fastload_native.chain import Candidate, to_try
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import (
    DeviceError,
    FastLoadError,
    IntegrityError,
    LayoutMismatchError,
    NotPublishedError,
    PartialTransferError,
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import Manifest
from yr_fastload_native.publication import Publication
from yr_fastload_native.publisher import data_keys
from yr_fastload_native.report import LoadReport
from yr_fastload_native.served import Served
from yr_fastload_native.settle import versions
from yr_fastload_native.sha256 import sums
from yr_fastload_native.tensors import TensorTable
from yr_fastload_native.timeline import Timeline
from yr_fastload_native.transports import aliases, host, staged
from yr_fastload_native.transports import digests as transport_digests
from yr_fastload_native.transports.d2d import Member, Place
from yr_fastload_native.transports.jobs import LoadJob, Progress, Worker

__all__ = ["Pulled", "Puller"]

_log = logging.getLogger(__name__)

_BUSY_S = 0.05
_PUBLISHER_CHARS = 80
_Failure = tuple[int, str, str]  # chunk, error code, detail

# What one transport may fail with while another one still works.
_NEXT_TRANSPORT = (
    DeviceError,
    IntegrityError,
    NotPublishedError,
    PartialTransferError,
    ResourceExhaustedError,
    TransferTimeoutError,
    NotPublishedError,
    UnavailableError,
)


@attrs.frozen
class Pulled:
    """What a load ended with.

    Attributes:
        transport: The one that brought the most bytes.
        member: This process's part in serving it device to device, if it has one.
        served: What it serves then.
        digest: Of the content, if it was compared with a trusted one.
    """

    generation: Generation
    transport: str
    chunks_retried: int
    member: Member | None
    served: Served | None
    digest: str | None

    def join(self, worker: Worker, deadline: Deadline, report: LoadReport) -> Publication:
        """Keep the generation published, as one more source of it."""
        generation, member = self.generation, self.member
        manifest = generation.manifest
        keys = data_keys(generation.who, manifest.generation, len(manifest.chunks), generation.transports)
        place = member.held if member is not None else ("", b"")
        try:
            lease = worker.catalogue.take_lease(generation, keys, deadline, place=place)
        except BaseException:
            if member is not None:
                member.leave(deadline)
            raise
        if member is not None:
            member.start()
        return Publication(
            generation,
            lease,
            joined=True,
            size=report.bytes,
            seconds=report.seconds,
            lease_s=worker.config.lease_s,
            store=worker.catalogue.store,
            member=member,
            served=self.served,
            digest=self.digest,
        )


@attrs.frozen
class _Trust:
    """What the bytes of a load have to be: the SHA-256 of each tensor, in the manifest's order."""

    digest: str
    sha256: list[str]
    publisher: str


class Puller:
    """One load of one identity.

    Attributes:
        timeline: What was done when.
        steps: What was tried, as `LoadReport.steps` has it.
        memory_written: Whether some tensors may have been written to.
        aliased_bytes: Of tensors that use the worker's memory itself.
    """

    def __init__(
        self,
        worker: Worker,
        who: Identity,
        table: TensorTable,
        context: DeviceContext,
        deadline: Deadline,
        progress: Progress | None,
        trusted: frozenset[str] | None,
        timeline: Timeline,
        files: dict[str, str],
    ) -> None:
        self._worker = worker
        self._config = worker.config
        self._who = who
        self._table = table
        self._context = context
        self._deadline = deadline
        self._progress = progress
        self._trusted = trusted
        self._files = files
        self.timeline = timeline
        self.steps: list[dict[str, Any]] = []
        self.memory_written = False
        self.aliased_bytes = 0

    def pull(self) -> Pulled:
        """Load the current generation.

        Raises:
            SupersededError: It was replaced or withdrawn meanwhile; start again.
        """
        catalogue, deadline = self._worker.catalogue, self._deadline
        with self.timeline.stage("manifest"):
            head, names = catalogue.head(self._who, deadline, op="load")
        candidates = to_try(self._config, names.transports, self._context.kind)
        usable = [candidate.transport for candidate in candidates if candidate.why_not is None]
        if not usable:
            raise DeviceError(
                f"published by {' and '.join(names.transports)}, which cannot be used here: "
                + "; ".join(f"{each.transport}: {each.why_not}" for each in candidates),
                op="load",
                failed_keys=[self._who.head_key],
            )
        member = Member(self._worker, self._who, names.generation, self._context) if "d2d" in usable else None
        beside = member.first_keys() if member is not None else []
        with self.timeline.stage("manifest"):
            generation, places = catalogue.read(
                self._who, head, names, deadline, op="load", mine=self._table, beside=beside
            )
        try:
            self._check_files(generation)
            trust = None if self._trusted is None else self._check_trusted(generation, self._trusted)
            if member is not None:
                with self.timeline.stage("setup"):
                    self._join(member, places)
            manifest = generation.manifest
            with self.timeline.stage("layout"):
                manifest.check_layout(self._table, op="load")
                plan = manifest.plan()
            job = LoadJob(self._worker, generation, self._context, plan, deadline)
            transport, retried = _Load(self, job, manifest.addresses(self._table), member).run(candidates)
            if trust is not None:
                self._compare(manifest, trust)
        except BaseException:
            if member is not None:
                member.leave(deadline)
            raise
        if member is not None and not self._config.hold:
            member.leave(deadline)
            member = None
        served = None
        if member is not None:
            served = Served(
                catalogue, generation, self._table, self._context, self._worker.copy_threads, versions(self._table)
            )
        return Pulled(generation, transport, retried, member, served, None if trust is None else trust.digest)

    def _check_files(self, generation: Generation) -> None:
        """Refuse weights that were read from other files than this process has, where both are known."""
        wrong = differing(self._files, generation.files or {})
        if wrong:
            raise LayoutMismatchError(
                f"{len(wrong)} of {len(self._files)} files are not those that were published, such as {wrong[0]!r}",
                op="load",
                failed_keys=wrong,
            )

    def _check_trusted(self, generation: Generation, trusted: frozenset[str]) -> _Trust:
        """What the bytes have to be, before the first of them is asked for."""
        manifest = generation.manifest
        publisher = f"publisher {manifest.publisher[:_PUBLISHER_CHARS]!r} (as it calls itself)"
        sha256 = self._worker.catalogue.wait_for_digests(generation, self._deadline, op="load").sha256
        if sha256 is None:
            raise IntegrityError(
                f"{publisher} does not tell the SHA-256 of its tensors, which trusted_digests are compared with; "
                "set publish_sha256 where these weights are published",
                op="load",
                failed_keys=[self._who.head_key],
            )
        digest = manifest.content_digest(self._who, sha256)
        if digest not in trusted:
            raise IntegrityError(
                f"{publisher} has published weights of content digest {digest}, which is none of the "
                f"{len(trusted)} in trusted_digests; nothing was written",
                op="load",
                failed_keys=[self._who.head_key],
            )
        return _Trust(digest, sha256, publisher)

    def _compare(self, manifest: Manifest, trust: _Trust) -> None:
        """Compare every byte with what was trusted, by SHA-256."""
        table = self._table
        with self.timeline.stage("sha256", table.bytes):
            mine = sums(table, self._worker.copy_threads, self._deadline.left)
        wrong = [
            tensor.name
            for tensor, wanted in zip(manifest.tensors, trust.sha256, strict=True)
            if mine[table.index[tensor.name]] != wanted
        ]
        if wrong:
            raise IntegrityError(
                f"{len(wrong)} of {len(manifest.tensors)} tensors are not the trusted ones by SHA-256, such as "
                f"{wrong[0]!r}: {trust.publisher}, or a source that it left them to, served other bytes",
                op="load",
                failed_keys=wrong,
            )

    def _join(self, member: Member, places: list[bytes | None]) -> None:
        """Take a place among those who serve this generation, and have the way to the first peer set up."""
        member.look_around(places, self._deadline)
        if self._config.hold:
            try:
                member.take_place(self._deadline)
            except ResourceExhaustedError as error:
                _log.debug("no source will come of this load: %s", str(error))
        member.greet(self._deadline)


class _Load:
    """Chunks that are still wanted, and the transports that may bring them."""

    def __init__(self, puller: Puller, job: LoadJob, addresses: array[int], member: Member | None) -> None:
        self._puller = puller
        self._job = job
        self._addresses = addresses
        self._member = member
        self._manifest: Manifest = job.generation.manifest
        self._wanted = array("Q", range(job.plan.chunks))
        taken = job.generation.digests
        self._digests = None if taken is None else taken.chunks
        self._retried = 0
        self._source: _core.D2dSource | None = None
        if member is not None and job.worker.config.hold:
            self._source = member.serve(job.plan, addresses, puller._table.memory())
            member.start_when_asked()

    def run(self, candidates: list[Candidate]) -> tuple[str, int]:
        """Returns the transport that brought the most bytes, and how many chunks were asked for again."""
        error: FastLoadError | None = None
        failures: list[_Failure] = []
        brought: dict[str, int] = {}
        for candidate in candidates:
            step: dict[str, Any] = {
                "transport": candidate.transport,
                "outcome": "skipped",
                "why": candidate.why_not,
                "bytes": 0,
                "seconds": 0.0,
                "sources": [],
            }
            if candidate.why_not is None and (len(self._wanted) or not brought):
                started = time.perf_counter()
                if error is not None or failures:
                    self._retried += len(self._wanted)
                try:
                    failures = self._try(candidate.transport, step)
                    error = None
                    step["outcome"] = "partial" if failures else "loaded"
                    step["why"] = failures[0][2] if failures else step["why"]
                except _NEXT_TRANSPORT as caught:
                    error = caught
                    step["outcome"], step["why"] = "failed", str(caught)
                step["seconds"] = time.perf_counter() - started
                brought[candidate.transport] = step["bytes"]
            elif candidate.why_not is None:
                step["why"] = "nothing was left to load"
            self._puller.steps.append(step)
            if error is not None:
                self._job.deadline.left()  # raises once nothing more can be tried
        if error is not None:
            raise error
        if failures:
            raise self._failed(failures)
        self._serve_all()
        return max(brought, key=lambda transport: brought[transport]), self._retried

    def _serve_all(self) -> None:
        """Make the source anew if it was given up on the way."""
        if self._member is not None and self._source is None and self._job.worker.config.hold:
            table = self._puller._table
            self._source = self._member.serve(self._job.plan, self._addresses, table.memory())
            for chunk in range(self._job.plan.chunks):
                self._source.offer(chunk)

    def _try(self, transport: str, step: dict[str, Any]) -> list[_Failure]:
        """Load what is wanted by one transport. Returns what failed by all it had to offer."""
        if transport == "d2d":
            return self._try_peers(step)
        if transport == "host" and self._job.worker.config.zero_copy:
            self._alias(step)
            if not len(self._wanted):
                return []
        read = {"host": host.reader, "staged": staged.reader}[transport]
        failures = self._read(read(self._job), step)
        if failures:
            self._check_current()
            self._retried += len(failures)
            failures = self._read(read(self._job), step)
        return failures

    def _alias(self, step: dict[str, Any]) -> None:
        """Have tensors use the worker's memory itself where they can; what they cannot is still wanted afterwards."""
        puller, job, manifest = self._puller, self._job, self._manifest
        if not job.context.kind.aliasable:
            step["why"] = f"not aliased: the tensors are {job.context.kind.where}"
            return
        try:
            with puller.timeline.stage("fetch"):
                found = aliases.map_chunks(job, puller._table, self._wanted)
        except DeviceError as error:
            step["why"] = str(error)
            _log.info("%s; they are copied", error)
            return
        if not found:
            return
        if job.worker.config.verify == "digest":
            with puller.timeline.stage("digest", sum(alias.memory.nbytes for alias in found)):
                found = aliases.unharmed(job, found)
        puller.memory_written = True
        with puller.timeline.stage("finish"):
            aliased = aliases.take(job, puller._table, found)
        puller.aliased_bytes += aliased
        step["bytes"] += aliased
        self._addresses = manifest.addresses(puller._table)
        taken = {alias.chunk for alias in found}
        self._wanted = array("Q", [chunk for chunk in self._wanted if chunk not in taken])

    def _try_peers(self, step: dict[str, Any]) -> list[_Failure]:
        """Load from one source after the other, each what those before it did not bring."""
        assert self._member is not None
        peers = self._member.peers_in_order()
        if not peers:
            raise NotPublishedError("no live source serves this generation device to device", op="load")
        failures: list[_Failure] = [
            (chunk, PartialTransferError.code, f"{peers[0].owner} is busy with other readers") for chunk in self._wanted
        ]
        asked = 0
        patience = time.monotonic() + self._job.deadline.left() / 2
        try:
            while True:
                busy = []
                for peer in peers:
                    lane = self._member.lane(peer, self._job.deadline)
                    if lane is None:
                        busy.append(peer)
                        continue
                    if asked:
                        self._check_current()
                        self._retried += len(failures)
                    asked += 1
                    failures = self._try_peer(peer, lane, step)
                    if not failures:
                        return []
                if not busy or time.monotonic() >= patience:
                    return failures
                peers = busy
                time.sleep(_BUSY_S)
        finally:
            self._member.free_lanes()

    def _try_peer(self, peer: Place, lane: int, step: dict[str, Any]) -> list[_Failure]:
        reader = self._peer_reader(peer, lane)
        try:
            failures = self._read(reader, step)
        finally:
            step["sources"].append(
                {"source": peer.owner, "chunks": reader.arrived, "left_because": reader.left_because}
            )
            if reader.in_flight and self._direct:
                self._move_away(reader.in_flight)
        if any(code == IntegrityError.code for _, code, _ in failures):
            reader.distrust()
        return failures

    @property
    def _direct(self) -> bool:
        """Whether chunks go straight into the tensors: into those that can be given other memory should a transfer
        have to be abandoned, and unless they are to be verified first.
        """
        return self._puller._table.replaceable and self._job.worker.config.staging == "auto"

    def _peer_reader(self, peer: Place, lane: int) -> _core.D2dReader:
        assert self._member is not None
        if not self._direct:
            return self._member.reader(peer, lane, self._job.plan, None, None)
        return self._member.reader(peer, lane, self._job.plan, self._addresses, self._puller._table.memory())

    def _move_away(self, chunks: Sequence[int]) -> None:
        """Give the tensors of chunks that may still be written to other memory, and serve none of the old."""
        assert self._member is not None
        table = self._puller._table
        touched = {blob.tensor for chunk in chunks for blob in self._job.plan.chunk(chunk)}
        _log.warning("a transfer was abandoned: %d tensors get other memory", len(touched))
        table.replace_memory(table.index[self._manifest.tensors[index].name] for index in touched)
        self._addresses = self._manifest.addresses(table)
        if self._source is not None:
            self._source = None
            self._member.stop_serving(self._job.deadline)

    def _check_current(self) -> None:
        if not self._job.worker.catalogue.is_current(self._job.generation, self._job.deadline):
            raise SupersededError

    def _read(self, reader: _core.ChunkReader, step: dict[str, Any]) -> list[_Failure]:
        puller, job, config = self._puller, self._job, self._job.worker.config
        wants_digest = config.verify == "digest"
        inline = wants_digest and self._digests is not None and job.context.device.cpu_accessible
        puller.memory_written = True
        loaded, _, spans, failures = _core.load_chunks(
            reader,
            job.context.device,
            job.context.pool,
            job.plan,
            self._addresses,
            self._wanted,
            digests=self._digests if inline and self._digests is not None else array("Q"),
            copy_threads=job.worker.copy_threads,
            chunks_in_flight=config.chunks_in_flight,
            verify=inline,
            stage=config.staging == "always",
            deadline_s=job.deadline.left(),
            progress=puller._progress,
            source=self._source if inline or not wants_digest else None,
        )
        puller.timeline.add(spans, job.plan.chunk_bytes)
        if wants_digest and not inline:
            with puller.timeline.stage("digest", loaded):
                failures = failures + self._verify({chunk for chunk, _, _ in failures})
        step["bytes"] += loaded
        self._wanted = array("Q", [chunk for chunk, _, _ in failures])
        return failures

    def _verify(self, missing: set[int]) -> list[_Failure]:
        """Compare what arrived with the publisher's digests, where that could not be done on the way."""
        job = self._job
        arrived = [chunk for chunk in self._wanted if chunk not in missing]
        if job.context.device.cpu_accessible:
            mine = transport_digests.take(
                job.context,
                job.plan,
                self._addresses,
                self._puller._table,
                self._manifest,
                job.worker.copy_threads,
                job.deadline.left(),
                None,
            )
            values = [mine[chunk] for chunk in arrived]
        else:
            values = transport_digests.of_chunks(job.context, job.plan, self._puller._table, self._manifest, arrived)
        if self._digests is None:
            self._digests = job.worker.catalogue.wait_for_digests(job.generation, job.deadline, op="load").chunks
        wrong = []
        for chunk, value in zip(arrived, values, strict=True):
            if value != self._digests[chunk]:
                wrong.append((chunk, IntegrityError.code, "does not match its digest"))
            elif self._source is not None:
                self._source.offer(chunk)
        return wrong

    def _failed(self, failures: list[_Failure]) -> FastLoadError:
        """The error for chunks that did not come: damaged bytes weigh more than missing ones."""
        plan, manifest = self._job.plan, self._manifest
        damaged = [failure for failure in failures if failure[1] == IntegrityError.code]
        kind: type[FastLoadError] = IntegrityError if damaged else PartialTransferError
        chunk, code, detail = (damaged or failures)[0]
        tensors = manifest.chunk_tensors(plan, chunk)
        names = ", ".join(tensors[:2]) + (f", +{len(tensors) - 2}" if len(tensors) > 2 else "")
        return kind(
            f"{len(failures)}/{plan.chunks} chunks failed, asked for again where there was somebody to ask: {code}: "
            f"chunk {chunk} of {manifest.publisher} {detail} [{names}]",
            op="load",
            failed_keys=[manifest.chunks[chunk].key for chunk, _, _ in failures],
        )
