"""One publish: a new generation by the transports that it is to offer, or a part in one that is there."""

from __future__ import annotations

import logging
import math
import secrets
import time
from array import array
from collections.abc import Callable
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue import Generation, SupersededError
from yr_fastload_native.chain import chunk_bytes, to_offer
from yr_fastload_native.content import digest_of, entries
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import (
    IntegrityError,
    LayoutMismatchError,
    NotPublishedError,
    UnavailableError,
)
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import Manifest, build_manifest
from yr_fastload_native.publication import Publication
from yr_fastload_native.served import Served
from yr_fastload_native.settle import Settling, versions
from yr_fastload_native.sha256 import sums
from yr_fastload_native.tensors import TensorTable
from yr_fastload_native.transports import digests as transport_digests
from yr_fastload_native.transports import host, staged
from yr_fastload_native.transports.d2d import Member
from yr_fastload_native.transports.jobs import Progress, PublishJob, Worker

__all__ = ["ATTEMPTS", "Publisher", "data_keys"]

_log = logging.getLogger(__name__)

ATTEMPTS = 3


def data_keys(who: Identity, generation: str, chunks: int, transports: tuple[str, ...] | list[str]) -> list[str]:
    """What a generation's chunks take in the store; those served device to device take nothing there."""
    keys: list[str] = []
    for transport in (host, staged):
        if transport.NAME in transports:
            keys += transport.data_keys(who, generation, chunks)
    return keys


@attrs.frozen
class _Made:
    """A generation that this process publishes, or joins."""

    generation: Generation
    joined: bool
    member: Member | None
    digest: str | None


class Publisher:
    """One publish of one identity.

    With ``again``, a publication that was lost with its worker, that one goes on; nothing is published if the bytes are
    not those that it had.
    """

    def __init__(
        self,
        worker: Worker,
        who: Identity,
        table: TensorTable,
        context: DeviceContext,
        deadline: Deadline,
        progress: Progress | None,
        files: dict[str, str] | None,
        *,
        again: Publication | None = None,
    ) -> None:
        self._again = again
        self._expected = None if again is None else again.chunk_digests()
        self._worker = worker
        self._catalogue = worker.catalogue
        self._config = worker.config
        self._who = who
        self._table = table
        self._context = context
        self._deadline = deadline
        self._progress = progress
        self._files = files
        self._offers = to_offer(worker.config, context.kind)
        self._versions = versions(table)
        self._sha256: list[str] | None = None
        # Until the lease renews it, the first chunk must live as long as the last one takes.
        self._ttl_s = math.ceil(worker.config.publish_deadline_s) + worker.catalogue.data_ttl_s

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
        generation, member = made.generation, made.member
        chunks = len(generation.manifest.chunks)
        keys = data_keys(self._who, generation.manifest.generation, chunks, generation.transports)
        place = member.held if member is not None else ("", b"")
        lease = self._catalogue.take_lease(generation, keys, self._deadline, place=place, announced=not made.joined)
        if member is not None:
            member.start()
        parts: dict[str, Any] = {
            "joined": made.joined,
            "size": self._table.bytes,
            "seconds": time.perf_counter() - started,
            "lease_s": self._config.lease_s,
            "store": self._catalogue.store,
            "member": member,
            "served": self._served(generation) if member is not None else None,
            "digest": made.digest,
        }
        publication = self._again
        if publication is None:
            publication = Publication(generation, lease, **parts)
        else:
            publication.begin_again(generation, lease, **parts)
        if member is not None and generation.manifest.digests() is None and not made.joined:
            publication.settle(lambda give_up: self._settle(generation, member, give_up))
        return publication

    def _served(self, generation: Generation) -> Served:
        return Served(
            self._catalogue, generation, self._table, self._context, self._worker.copy_threads, self._versions
        )

    def _settle(self, generation: Generation, member: Member, give_up: Callable[[str], None]) -> Settling:
        plan = generation.manifest.plan()
        addresses = generation.manifest.addresses(self._table)
        return Settling(
            self._catalogue,
            generation,
            member.source,
            self._table,
            self._versions,
            lambda check: transport_digests.take(
                self._context,
                plan,
                addresses,
                self._table,
                generation.manifest,
                self._worker.copy_threads,
                self._config.publish_deadline_s,
                check,
            ),
            (lambda check: sums(self._table, self._worker.copy_threads, check))
            if self._config.publish_sha256
            else None,
            give_up,
            self._config.publish_deadline_s,
            self._ttl_s,
        )

    def _drop(self, made: _Made) -> None:
        if made.member is not None:
            made.member.leave(self._deadline)

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
            if set(names.transports) != set(self._offers):
                return None
            current, _ = catalogue.read(self._who, head, names, deadline, op="publish", mine=self._table)
            current.manifest.check_layout(self._table, op="publish")
            theirs = catalogue.wait_for_digests(current, deadline, op="publish")
        except (NotPublishedError, LayoutMismatchError, IntegrityError, SupersededError):
            return None
        mine = transport_digests.take(
            self._context,
            current.manifest.plan(),
            current.manifest.addresses(self._table),
            self._table,
            current.manifest,
            self._worker.copy_threads,
            deadline.left(),
            None,
        )
        if list(mine) != list(theirs.chunks):
            return None
        self._check_again(mine)
        # By SHA-256 too: somebody may have made other bytes for the same digests.
        return current if self._same_sums(current.manifest, theirs.sha256) else None

    def _check_again(self, digests: memoryview | array[int] | None) -> None:
        """Refuse bytes that are not those of the publication that is to go on."""
        if self._again is not None and (
            digests is None or self._expected is None or digests.tolist() != list(self._expected)
        ):
            raise IntegrityError("the tensors are no longer what was published", op="publish")

    def _same_sums(self, manifest: Manifest, theirs: list[str] | None) -> bool:
        mine = self._sums()
        if mine is None:
            return True
        index = self._table.index
        return theirs is not None and theirs == [mine[index[tensor.name]] for tensor in manifest.tensors]

    def _join(self, generation: Generation) -> _Made:
        if "d2d" not in generation.transports:
            return _Made(generation, True, None, self._digest())
        manifest, store = generation.manifest, self._catalogue.store
        member = self._serve(manifest.generation, manifest.plan(), manifest.addresses(self._table))
        try:
            member.look_around(store.get_many(member.first_keys(), deadline_s=self._deadline.left()), self._deadline)
            member.take_place(self._deadline)
        except BaseException:
            member.leave(self._deadline)
            raise
        return _Made(generation, True, member, self._digest())

    # -- a new one ------------------------------------------------------------------------------------------------

    def _serve(self, generation: str, plan: _core.Plan, addresses: array[int]) -> Member:
        """A source of all chunks, that is to be started."""
        member = Member(self._worker, self._who, generation, self._context)
        source = member.serve(plan, addresses, self._table.memory())
        for chunk in range(plan.chunks):
            source.offer(chunk)
        return member

    def _make(self) -> _Made:
        """Store a new generation and let the head name it; or join an equal one that came first."""
        catalogue, who, deadline, table = self._catalogue, self._who, self._deadline, self._table
        name = f"{time.time_ns():016x}{secrets.token_hex(4)}"
        largest = max((tensor.bytes for tensor in table.tensors), default=0)
        limits = (chunk_bytes(self._config, self._offers, largest), self._config.max_blobs)
        plan = _core.make_plan(table.moving, chunk_bytes=limits[0], max_blobs=limits[1])
        job = PublishJob(self._worker, who, name, table, self._context, plan, self._ttl_s, deadline, self._progress)
        member = None
        try:
            if "d2d" in self._offers:
                member = self._serve(name, plan, table.addresses)
                member.claim_first()
            digests = self._store_chunks(job)
            sha256 = None if digests is None else self._sums()
            manifest = build_manifest(who, name, table, plan, digests, limits, sha256)
            made, body = catalogue.describe(who, manifest, self._offers, self._files)
            place = member.held if member is not None else ("", b"")
            if catalogue.announce(made, body, deadline, place=place, replace=False):
                return _Made(made, False, member, self._digest())
            # Somebody published while we did. The same bytes: theirs will do. Other bytes: the later one counts.
            twin = self._twin()
            if twin is None and self._again is not None:
                raise IntegrityError("others have published other bytes meanwhile", op="publish")
            if twin is None:
                catalogue.announce(made, body, deadline, place=place, replace=True)
                return _Made(made, False, member, self._digest())
        except BaseException:
            if member is not None:
                member.leave(deadline)
            catalogue.erase_data(who, name, data_keys(who, name, plan.chunks, self._offers), deadline)
            raise
        if member is not None:
            member.leave(deadline)
        catalogue.erase_data(who, name, data_keys(who, name, plan.chunks, self._offers), deadline)
        return self._join(twin)

    def _store_chunks(self, job: PublishJob) -> memoryview | None:
        """Copy the chunks where they are to be copied; the digest of each, None if they are taken later."""
        digests = None
        if "host" in self._offers:
            digests = host.publish(job)
        if "staged" in self._offers:
            staged.publish(job)
        if digests is None and (self._offers != ["d2d"] or self._versions is None or self._again is not None):
            # What was copied is what has to be digested, before the caller may change it. So are tensors that would not
            # tell later whether they were changed meanwhile.
            digests = transport_digests.take(
                job.context,
                job.plan,
                job.table.addresses,
                job.table,
                None,
                self._worker.copy_threads,
                job.deadline.left(),
                None,
            )
        self._check_again(digests)
        return digests
