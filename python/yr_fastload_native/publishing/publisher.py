"""One publish: a new generation by the transports that it is to offer, or a part in one that is there."""

from __future__ import annotations

import logging
import math
import secrets
import sys
import time
from array import array
from collections.abc import Iterable

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Generation, HeldKey, SupersededError
from yr_fastload_native.catalogue.content_digest import digest_of, entries
from yr_fastload_native.catalogue.manifest import Manifest, build_manifest
from yr_fastload_native.errors import IntegrityError, LayoutMismatchError, NotPublishedError, UnavailableError
from yr_fastload_native.publishing.background_digests import BackgroundDigests, DigestTerms
from yr_fastload_native.publishing.by_reference import PublishedByReference
from yr_fastload_native.publishing.growth import Growing, Growth, OvertakenError
from yr_fastload_native.publishing.publication import Publication, PublicationParts
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.chunk_digests import LocalChunks
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.jobs import PublishJob, Request
from yr_fastload_native.transports.selection import chunk_bytes, servable, to_offer
from yr_fastload_native.weights.sha256 import sums

__all__ = ["ATTEMPTS", "Publisher"]

_log = logging.getLogger(__name__)

ATTEMPTS = 3


@attrs.frozen
class _Made:
    """A generation that this process publishes, or joins.

    Attributes:
        peer: What serves it by reference.
        digest: Of the content, if the sums were taken.
        growth: What kept it while its chunks were stored.
    """

    generation: Generation
    joined: bool
    peer: Peer | None
    digest: str | None
    growth: Growth | None = None

    @property
    def held(self) -> HeldKey | None:
        return None if self.peer is None else self.peer.held


class Publisher:
    """One publish of one identity.

    With ``again``, a publication that was lost with its worker, that one goes on; nothing is published if the bytes are
    not those that it had. With ``growing``, readers have chunks as they are stored.
    """

    def __init__(
        self,
        request: Request,
        files: dict[str, str] | None,
        *,
        again: Publication | None = None,
        growing: Growing | None = None,
    ) -> None:
        self._growing = growing
        self._again = again
        self._lost = None if again is None else again.manifest
        self._expected = None if again is None else again.chunk_digests()
        self._request = request
        self._worker = request.worker
        self._catalogue = self._worker.catalogue
        self._config = self._worker.config
        self._who = request.who
        self._table = request.table
        self._deadline = request.deadline
        self._files = files
        offers = to_offer(self._config, request.context.kind)
        self._offers = servable(offers, request.context, self._table.addresses)
        self._names = [transport.name for transport in self._offers]
        self._versions = self._table.versions()
        self._sha256: list[str] | None = None
        # Until the lease renews it, the first chunk must live as long as the last one takes.
        self._ttl_s = math.ceil(self._config.publish_deadline_s) + self._catalogue.data_ttl_s

    def publish(self, started: float) -> Publication:
        for attempt in range(ATTEMPTS):
            twin = self._twin() if attempt == 0 else None
            made = self._make() if twin is None else self._join(twin)
            try:
                return self._open(made, started)
            except NotPublishedError as error:  # withdrawn or replaced since; what was joined is not joined again
                self._drop(made)
                _log.debug("publishing anew: %s", str(error))
            except BaseException:
                self._drop(made)
                raise
        raise UnavailableError(f"others replaced the publication {ATTEMPTS} times meanwhile", op="publish")

    def _open(self, made: _Made, started: float) -> Publication:
        generation, peer = made.generation, made.peer
        chunks = len(generation.manifest.chunks)
        keys = registry.data_keys(self._who, generation.manifest.generation, chunks, generation.transports)
        announced = not made.joined and made.growth is None
        lease = self._catalogue.take_lease(generation, keys, self._deadline, held=made.held, announced=announced)
        if made.growth is not None:
            made.growth.end()
        published = None
        if peer is not None:
            peer.start()
            published = PublishedByReference(self._catalogue, generation, self._chunks(generation), self._versions)
        parts = PublicationParts(
            generation=generation,
            lease=lease,
            joined=made.joined,
            size=self._table.bytes,
            seconds=time.perf_counter() - started,
            lease_s=self._config.lease_s,
            store=self._catalogue.store,
            peer=peer,
            served=published,
            digest=made.digest,
        )
        publication = self._again
        if publication is None:
            publication = Publication(parts)
        else:
            publication.begin_again(parts)
        if peer is not None and published is not None and generation.manifest.digests() is None and not made.joined:
            terms = DigestTerms(self._config.publish_sha256, self._config.publish_deadline_s, self._ttl_s)
            publication.settle(lambda give_up: BackgroundDigests(published, peer, terms, give_up))
        return publication

    def _chunks(self, generation: Generation) -> LocalChunks:
        manifest = generation.manifest
        return self._request.chunks_of(manifest.plan(), manifest)

    def _drop(self, made: _Made) -> None:
        if made.peer is not None:
            made.peer.leave(self._deadline)
        if made.growth is not None:
            made.growth.end()
            manifest = made.generation.manifest
            keys = registry.data_keys(self._who, manifest.generation, len(manifest.chunks), self._names)
            self._catalogue.erase_data(self._who, manifest.generation, keys, self._deadline)

    def _sums(self) -> list[str] | None:
        """The SHA-256 of each tensor, if that is to be published."""
        if self._sha256 is None and self._config.publish_sha256:
            self._sha256 = sums(self._table, self._worker.copy_threads, self._deadline.left)
        return self._sha256

    def _digest(self) -> str | None:
        """Of the content, if the sums were taken."""
        return None if self._sha256 is None else digest_of(self._who, *entries(self._table), self._sha256)

    # -- a generation that is there -------------------------------------------------------------------------------

    def _twin(self) -> Generation | None:
        """The current generation, if it holds exactly these bytes and offers what this one would."""
        catalogue, deadline = self._catalogue, self._deadline
        try:
            head, names = catalogue.head(self._who, deadline, op="publish")
            if set(names.transports) != set(self._names):
                return None
            current, _ = catalogue.read(self._who, head, names, deadline, op="publish", mine=self._table)
            current.manifest.check_layout(self._table, op="publish")
            theirs = catalogue.wait_for_digests(current, deadline, op="publish")
        except (NotPublishedError, LayoutMismatchError, IntegrityError, SupersededError):
            return None
        mine = self._chunks(current).digests(deadline.left())
        if list(mine) != list(theirs.chunks):
            return None
        there = current.manifest
        self._check_again(mine, [tensor.name for tensor in there.tensors], there.limits, there.digest)
        # By SHA-256 too: somebody may have made other bytes for the same digests.
        return current if self._same_sums(current.manifest, theirs.sha256) else None

    def _check_again(
        self, digests: memoryview | array[int] | None, names: Iterable[str], limits: tuple[int, int], digest: str
    ) -> None:
        """Refuse bytes that are not those of the publication that is to go on.

        The digests are of chunks of these tensors, in this order, under these limits. Where that publication was cut
        otherwise, the tensors are looked at once more, as it had them.
        """
        lost = self._lost
        if lost is None:
            return
        if not lost.is_cut_as(names, limits, digest):
            digests = self._request.chunks_of(lost.plan(), lost).digests(self._deadline.left())
        if digests is None or self._expected is None or digests.tolist() != list(self._expected):
            raise IntegrityError("the tensors are no longer what was published", op="publish")

    def _same_sums(self, manifest: Manifest, theirs: list[str] | None) -> bool:
        mine = self._sums()
        if mine is None:
            return True
        index = self._table.index
        return theirs is not None and theirs == [mine[index[tensor.name]] for tensor in manifest.tensors]

    def _join(self, generation: Generation) -> _Made:
        peer = self._peer(generation.manifest.generation, self._chunks(generation))
        if peer is not None:
            try:
                found = self._catalogue.store.get_many(peer.first_keys(), deadline_s=self._deadline.left())
                peer.join(found, self._deadline)
            except BaseException:
                peer.leave(self._deadline)
                raise
        return _Made(generation, True, peer, self._digest())

    # -- a new one ------------------------------------------------------------------------------------------------

    def _peer(self, generation: str, chunks: LocalChunks) -> Peer | None:
        """A source of all chunks, that is to be started, if a transport serves them by reference."""
        peer = registry.peer_of(self._offers, self._worker, self._who, generation, self._request.context)
        if peer is not None:
            peer.serve_all(chunks.plan, chunks.addresses, self._table.memory(), self._deadline)
        return peer

    @property
    def _limits(self) -> tuple[int, int]:
        """Of a plan: ``chunk_bytes`` and ``max_blobs``. What goes on keeps its own, so that its digests tell of it."""
        if self._lost is not None:
            return self._lost.limits
        largest = max(self._table.moving, default=0)
        return chunk_bytes(self._config, self._offers, largest), self._config.max_blobs

    def _make(self, *, replace: bool = False) -> _Made:
        """Store a new generation and let the head name it; or join an equal one that came first."""
        who, table = self._who, self._table
        name = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        limits = self._limits
        plan = _core.make_plan(table.moving, chunk_bytes=limits[0], max_blobs=limits[1])
        sys.audit("yr_fastload_native.publish", who.digest, name, plan.chunks)
        job = self._request.to_publish(name, plan, self._ttl_s)
        if self._growing is not None:
            return self._grow(job, limits, self._growing, replace=replace)
        peer = None
        try:
            peer = self._peer(name, job.chunks)
            if peer is not None:
                peer.claim_first()
            digests = self._store_chunks(job)
            sha256 = None if digests is None else self._sums()
            manifest = build_manifest(who, name, table, plan, digests, limits, sha256, digest=job.chunks.digest)
            generation, body = self._catalogue.describe(who, manifest, self._names, self._files)
            made = _Made(generation, False, peer, self._digest())
            twin = self._announce(made, body)
            if twin is None:
                return made
        except BaseException:
            self._discard(job, peer)
            raise
        self._discard(job, peer)
        return self._join(twin)

    def _grow(self, job: PublishJob, limits: tuple[int, int], growing: Growing, *, replace: bool) -> _Made:
        """Store a new generation that readers see as it comes; or join an equal one that came first."""
        manifest = build_manifest(self._who, job.generation, self._table, job.plan, None, limits, None)
        generation, body = self._catalogue.describe(self._who, manifest, self._names, self._files)
        growth = Growth(self._catalogue, generation, body, job, growing, replace=replace)
        try:
            digests = self._store_chunks(attrs.evolve(job, stored=growth.stored, files=growing.files()))
            assert digests is not None
            grown = growth.complete(array("Q", digests), self._sums())
            return _Made(grown, False, None, self._digest(), growth)
        except BaseException as error:
            growth.end()
            self._discard(job, None)
            if not isinstance(error, OvertakenError):
                raise
        twin = self._twin()
        if twin is not None:
            return self._join(twin)
        self._check_alone()
        return self._make(replace=True)

    def _check_alone(self) -> None:
        """Refuse to take the place of another generation with what is to go on."""
        if self._again is not None:
            raise IntegrityError("others have published other bytes meanwhile", op="publish")

    def _announce(self, made: _Made, body: bytes) -> Generation | None:
        """Let the head name a new generation; or tell the equal one that it names since."""
        announce = self._catalogue.announce
        if announce(made.generation, body, self._deadline, held=made.held, replace=False):
            return None
        # Somebody published while we did. The same bytes: theirs will do. Other bytes: the later one counts.
        twin = self._twin()
        if twin is None:
            self._check_alone()
            announce(made.generation, body, self._deadline, held=made.held, replace=True)
        return twin

    def _discard(self, job: PublishJob, peer: Peer | None) -> None:
        """Take back what no head names."""
        if peer is not None:
            peer.leave(self._deadline)
        keys = registry.data_keys(job.who, job.generation, job.plan.chunks, self._names)
        self._catalogue.erase_data(job.who, job.generation, keys, self._deadline)

    def _store_chunks(self, job: PublishJob) -> memoryview | None:
        """Copy the chunks where they are to be copied; the digest of each, None if they are taken later."""
        digests = None
        for transport in self._offers:
            taken = transport.publish(job)
            digests = digests if taken is None else taken
        copied = not all(transport.by_reference for transport in self._offers)
        if digests is None and (copied or self._versions is None or self._again is not None):
            # What was copied is what has to be digested, before the caller may change it. So are tensors that would not
            # tell later whether they were changed meanwhile.
            digests = job.chunks.digests(job.deadline.left())
        self._check_again(digests, self._table.names, self._limits, job.chunks.digest)
        return digests
