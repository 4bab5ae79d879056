"""A loader's checkpoints: published from their files, and read by whoever has the same ones."""

from __future__ import annotations

import functools
import logging
import os
import time
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from yr_fastload_native.catalogue.arrivals import Arrivals
from yr_fastload_native.catalogue.catalogue import Generation, SupersededError
from yr_fastload_native.catalogue.checkpoint import compared_in, identity_of, is_tensor, pool_of
from yr_fastload_native.catalogue.content_digest import content_digest
from yr_fastload_native.catalogue.election import Claims
from yr_fastload_native.catalogue.file_sums import check_files
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.checkpoints.tensor_files import TensorFiles
from yr_fastload_native.errors import (
    FastLoadError,
    InvalidArgumentError,
    LayoutMismatchError,
    PartialTransferError,
)
from yr_fastload_native.loader.checkpoint_files import FilesOrigin, FromFiles, check_dtypes, entries, growing
from yr_fastload_native.loader.kept import Kept
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.loading.arriving import Arriving
from yr_fastload_native.loading.checkpoint_reader import CheckpointReader, ReadTerms
from yr_fastload_native.loading.published_checkpoint import PublishedCheckpoint
from yr_fastload_native.loading.trust import Trust
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.publication import LEAVE_S, Publication, PublicationParts
from yr_fastload_native.publishing.publisher import ATTEMPTS, Publisher
from yr_fastload_native.settings import Config
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.jobs import Progress, Request, StoreSession
from yr_fastload_native.transports.stored_chunks import StoredChunks
from yr_fastload_native.weights.tensor_table import TensorTable
from yr_fastload_native.weights.views import VIEWS

__all__ = ["Checkpoints", "Source"]

_log = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str] | TensorFiles"

_VERIFY = ("once", "digest")


@attrs.frozen
class Checkpoints:
    """What one loader does with checkpoints: `FastLoader.publish_checkpoint` and `FastLoader.checkpoint`."""

    link: StoreLink
    kept: Kept
    claims: Claims
    config: Config

    def identity(self, files: TensorFiles) -> dict[str, Any]:
        """The identity of these files, published by way of this loader."""
        name = files.root.resolve().name
        return identity_of(files.fingerprint, model=name, pool=pool_of(self.link.address))

    def identity_of(self, source: Source, deadline_s: float) -> dict[str, Any]:
        return self.identity(_files_of(source, Deadline(deadline_s, "checkpoint")))

    def digest_of(self, source: Source, deadline_s: float) -> str:
        files = _files_of(source, Deadline(deadline_s, "checkpoint"))
        digest = content_digest(entries(files), self.identity(files), threads=self.link.copy_threads)
        files.check("checkpoint")
        return digest

    def publish(self, source: Source, progress: Progress | None, announced: Callable[[], None]) -> Publication:
        deadline = Deadline(self.config.publish_deadline_s, "publish")
        session = self.link.worker("publish", deadline.left())
        files = _files_of(source, deadline)
        who = Identity.of(self.identity(files), op="publish")
        try:
            publication = self._publish(session, files, who, deadline, progress, announced)
        finally:
            self.claims.release(who)
        self.kept.keep(who, publication, deadline)
        return publication

    def _publish(
        self,
        session: StoreSession,
        files: TensorFiles,
        who: Identity,
        deadline: Deadline,
        progress: Progress | None,
        announced: Callable[[], None],
    ) -> Publication:
        started = time.perf_counter()
        # Whole tensors in the worker's memory, whatever the settings say of other publications.
        config = attrs.evolve(session.config, transport="host", publish_as="host", zero_copy=True)
        table = TensorTable(entries(files), op="publish", writable=False, max_tensors=config.max_tensors)
        check_dtypes(table)
        session = attrs.evolve(session, config=config)
        publisher = Publisher(
            Request(session, who, table, self.link.devices.of(table), deadline, progress),
            check_files(files.read.sums, op="publish"),
            growing=growing(files, announced),
        )
        publication = publisher.publish(started)
        publication.withdraw_when(files.changed)
        if not publication.joined:  # one of them reads the files again, where they are lost with the worker
            publication.origin = FilesOrigin(files, config, lambda: Identity.of(self.identity(files), op="publish"))
        return publication

    def open(
        self,
        source: Source | Mapping[str, Any],
        *,
        framework: str,
        verify: str,
        window: int,
        deadline_s: float,
        trusted: frozenset[str] | None,
    ) -> PublishedCheckpoint:
        if framework not in VIEWS or verify not in _VERIFY or window < 0:
            raise InvalidArgumentError(
                f"framework={framework!r}, verify={verify!r}, window={window}: framework is one of {', '.join(VIEWS)}, "
                f"verify one of {', '.join(_VERIFY)}, and window at least 0",
                op="checkpoint",
            )
        deadline = Deadline(deadline_s, "checkpoint")
        session = self.link.worker("checkpoint", deadline.left())
        if isinstance(source, Mapping):
            files, fields = None, source
        else:
            files = _files_of(source, deadline)
            fields = self.identity(files)
        who = Identity.of(fields, op="checkpoint")
        generation, sha256 = _current(session, who, deadline, trusted)
        if files is not None:
            _check_same(files, generation)
        here = compared_in(generation.manifest.identity) == pool_of(self.link.address)
        ahead = len(generation.manifest.chunks) if here else self.config.chunks_in_flight
        terms = ReadTerms(
            compare=verify == "digest" or not here,
            ahead=min(ahead, window) if window else ahead,
            window=window,
            deadline_s=self.config.deadline_s,
            sha256=sha256,
            instead=None if files is None else FromFiles(files),
        )
        opened = PublishedCheckpoint(_reader(session, generation, framework, terms))
        if self.config.hold and generation.digests is not None:
            self._hold(session, generation, files, deadline)
        elif self.config.hold:
            self.kept.soon(functools.partial(self._hold_once_whole, session, generation, files))
        return opened

    def _hold_once_whole(self, session: StoreSession, generation: Generation, files: TensorFiles | None) -> bool:
        """Become a source once all chunks are there; whether that is over."""
        deadline = Deadline(LEAVE_S, "checkpoint")
        try:
            _, is_whole = Arrivals(session.catalogue, generation).look(deadline, op="checkpoint")
        except SupersededError:
            return True
        except FastLoadError as error:
            _log.debug("not known yet whether all of it is there: %s", str(error))
            return False
        if is_whole:
            self._hold(session, generation, files, deadline)
        return is_whole

    def _hold(
        self, session: StoreSession, generation: Generation, files: TensorFiles | None, deadline: Deadline
    ) -> None:
        """Become a source of it. Not being one is no error: what is read is there."""
        who, manifest = generation.who, generation.manifest
        held = self.kept.get(who)
        if held is not None and held.generation == manifest.generation and held.state == "live":
            return
        keys = registry.data_keys(who, manifest.generation, len(manifest.chunks), generation.transports)
        started = time.perf_counter()
        try:
            lease = session.catalogue.take_lease(generation, keys, deadline.at_most(LEAVE_S))
        except FastLoadError as error:
            _log.debug("did not become a source: %s", str(error))
            return
        parts = PublicationParts(
            generation=generation,
            lease=lease,
            joined=True,
            size=sum(each.bytes for each in manifest.tensors if each.alias is None and is_tensor(each.name)),
            seconds=time.perf_counter() - started,
            lease_s=self.config.lease_s,
            store=session.catalogue.store,
            peer=None,
            served=None,
            digest=None,
        )
        publication = Publication(parts)
        if files is not None:
            publication.withdraw_when(files.changed)
        self.kept.keep(who, publication, deadline)


def _files_of(source: Source, deadline: Deadline) -> TensorFiles:
    if isinstance(source, TensorFiles):
        return source
    path = Path(source)
    if not path.exists():
        raise InvalidArgumentError(f"there is no {path}", op="checkpoint", failed_keys=[str(path)])
    return TensorFiles.of(path, deadline_s=deadline.left())


def _current(
    session: StoreSession, who: Identity, deadline: Deadline, trusted: frozenset[str] | None
) -> tuple[Generation, dict[str, str] | None]:
    """The current generation and, if it must be a trusted one, the SHA-256 of each tensor: then it is whole."""
    catalogue, op = session.catalogue, "checkpoint"
    for _ in range(ATTEMPTS):
        head, names = catalogue.head(who, deadline, op=op)
        try:
            generation, _ = catalogue.read(who, head, names, deadline, op=op, mine=None)
            if trusted is None:
                return generation, None
            trust = Trust.of(generation, trusted, catalogue, deadline, op=op)
            generation = attrs.evolve(generation, digests=catalogue.wait_for_digests(generation, deadline, op=op))
        except SupersededError:
            continue
        tensors = generation.manifest.tensors
        return generation, {each.name: of for each, of in zip(tensors, trust.sha256, strict=True)}
    raise PartialTransferError(f"the publication was replaced {ATTEMPTS} times while it was read", op=op)


def _check_same(files: TensorFiles, generation: Generation) -> None:
    """Refuse what was read from other files than those that are here, where both are known."""
    wrong = differing(files.read.sums, generation.files or {})
    if wrong:
        raise LayoutMismatchError(
            f"{len(wrong)} files of {files.root} are not those that were published, such as {wrong[0]!r}",
            op="checkpoint",
            failed_keys=wrong,
        )


def _reader(session: StoreSession, generation: Generation, framework: str, terms: ReadTerms) -> CheckpointReader:
    manifest, plan = generation.manifest, generation.manifest.plan()
    prefix = generation.chunk_prefix
    if generation.digests is not None:
        chunks = StoredChunks(session, prefix, plan, manifest.digest, generation.digests.chunks)
        return CheckpointReader(generation, plan, chunks, VIEWS[framework](), terms)
    digests = array("Q", bytes(8 * plan.chunks))
    arriving = Arriving(Arrivals(session.catalogue, generation), digests, terms.deadline_s)
    chunks = StoredChunks(session, prefix, plan, manifest.digest, digests)
    return CheckpointReader(generation, plan, chunks, VIEWS[framework](), terms, arriving)
