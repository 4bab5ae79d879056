"""A loader's checkpoints: published from their files, and read by whoever has the same ones."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from yr_fastload_native.catalogue.catalogue import Generation, SupersededError
from yr_fastload_native.catalogue.checkpoint import FILE, HEADER, compared_in, identity_of, is_tensor, pool_of
from yr_fastload_native.catalogue.election import Claims
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import check_files
from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.checkpoints.tensor_files import TensorFiles
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    InvalidArgumentError,
    LayoutMismatchError,
    PartialTransferError,
)
from yr_fastload_native.loader.kept import Kept
from yr_fastload_native.loader.store_link import StoreLink
from yr_fastload_native.loading.published_checkpoint import CheckpointReader, PublishedCheckpoint, ReadTerms
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.publishing.publication import LEAVE_S, Publication, PublicationParts
from yr_fastload_native.publishing.publisher import ATTEMPTS, Publisher
from yr_fastload_native.settings import Config
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.jobs import Progress, PublishJob, Request, StoreSession
from yr_fastload_native.transports.stored_chunks import StoredChunks
from yr_fastload_native.weights.tensor_table import TensorTable
from yr_fastload_native.weights.views import ITEM_BYTES, VIEWS

__all__ = ["Checkpoints", "Source"]

_log = logging.getLogger(__name__)

Source: TypeAlias = "str | os.PathLike[str] | TensorFiles"

_VERIFY = ("once", "digest")
_COMPARED_AT_ONCE = 16  # chunks, which are copied where they cannot be mapped


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

    def publish(self, source: Source, progress: Progress | None) -> Publication:
        deadline = Deadline(self.config.publish_deadline_s, "publish")
        session = self.link.worker("publish", deadline.left())
        files = _files_of(source, deadline)
        who = Identity.of(self.identity(files), op="publish")
        try:
            publication = self._publish(session, files, who, deadline, progress)
        finally:
            self.claims.release(who)
        self.kept.keep(who, publication, deadline)
        return publication

    def _publish(
        self, session: StoreSession, files: TensorFiles, who: Identity, deadline: Deadline, progress: Progress | None
    ) -> Publication:
        started = time.perf_counter()
        # Whole tensors in the worker's memory, whatever the settings say of other publications.
        config = attrs.evolve(session.config, transport="host", publish_as="host", zero_copy=True)
        table = TensorTable(_entries(files), op="publish", writable=False, max_tensors=config.max_tensors)
        _check_dtypes(table)
        session = attrs.evolve(session, config=config)
        publisher = Publisher(
            Request(session, who, table, self.link.devices.of(table), deadline, progress),
            check_files(files.read.sums, op="publish"),
            before_announcing=lambda job, digests: _check_copied(files, job, digests),
        )
        publication = publisher.publish(started)
        publication.withdraw_when(files.changed)
        return publication

    def open(
        self,
        source: Source | Mapping[str, Any],
        *,
        framework: str,
        verify: str,
        window: int,
        deadline_s: float,
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
        generation = _current(session, who, deadline)
        if files is not None:
            _check_same(files, generation)
        here = compared_in(generation.manifest.identity) == pool_of(self.link.address)
        ahead = len(generation.manifest.chunks) if here else self.config.chunks_in_flight
        terms = ReadTerms(
            compare=verify == "digest" or not here,
            ahead=min(ahead, window) if window else ahead,
            window=window,
            deadline_s=self.config.deadline_s,
            instead=None if files is None else _FromFiles(files),
        )
        opened = PublishedCheckpoint(_reader(session, generation, framework, terms, deadline))
        if self.config.hold:
            self._hold(session, generation, opened.bytes, files, deadline)
        return opened

    def _hold(
        self, session: StoreSession, generation: Generation, size: int, files: TensorFiles | None, deadline: Deadline
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
            size=size,
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


def _entries(files: TensorFiles) -> dict[str, Any]:
    """Everything that is published of a checkpoint, by name."""
    tensors = files.tensors()
    wrong = [name for name in tensors if not is_tensor(name)]
    if wrong:
        raise InvalidArgumentError(
            f"tensor {wrong[0]!r} of {files.root} has a name that is kept for other entries",
            op="checkpoint",
            failed_keys=wrong,
        )
    beside = {HEADER + name: value for name, value in files.headers().items()}
    return tensors | beside | {FILE + name: value for name, value in files.indexes().items()}


def _check_dtypes(table: TensorTable) -> None:
    """Refuse tensors that nobody could read."""
    wrong = [tensor.name for tensor in table.tensors if tensor.dtype not in ITEM_BYTES]
    if wrong:
        dtype = table.tensors[table.index[wrong[0]]].dtype
        raise InvalidArgumentError(
            f"tensor {wrong[0]!r} has dtype {dtype}; tensors of a checkpoint have one of {', '.join(ITEM_BYTES)}",
            op="publish",
            failed_keys=wrong,
        )


def _check_copied(files: TensorFiles, job: PublishJob, digests: Sequence[int]) -> None:
    """Refuse what is not what the files hold, or does not lie in the worker's memory as it was read."""
    files.check("publish")
    keys = registry.data_keys(job.who, job.generation, job.plan.chunks, ["host"])
    chunks = StoredChunks(
        job.worker.catalogue.store, keys, job.plan, job.chunks.digest, digests, job.worker.copy_threads
    )
    for first in range(0, job.plan.chunks, _COMPARED_AT_ONCE):
        wanted = range(first, min(first + _COMPARED_AT_ONCE, job.plan.chunks))
        for memory in chunks.open(wanted, compare=True, deadline_s=job.deadline.left()).values():
            if isinstance(memory, FastLoadError):
                raise memory


def _current(session: StoreSession, who: Identity, deadline: Deadline) -> Generation:
    for _ in range(ATTEMPTS):
        head, names = session.catalogue.head(who, deadline, op="checkpoint")
        try:
            return session.catalogue.read(who, head, names, deadline, op="checkpoint", mine=None)[0]
        except SupersededError:
            continue
    raise PartialTransferError(f"the publication was replaced {ATTEMPTS} times while it was read", op="checkpoint")


def _check_same(files: TensorFiles, generation: Generation) -> None:
    """Refuse what was read from other files than those that are here, where both are known."""
    wrong = differing(files.read.sums, generation.files or {})
    if wrong:
        raise LayoutMismatchError(
            f"{len(wrong)} files of {files.root} are not those that were published, such as {wrong[0]!r}",
            op="checkpoint",
            failed_keys=wrong,
        )


def _reader(
    session: StoreSession, generation: Generation, framework: str, terms: ReadTerms, deadline: Deadline
) -> CheckpointReader:
    manifest, plan = generation.manifest, generation.manifest.plan()
    digests = session.catalogue.wait_for_digests(generation, deadline, op="checkpoint").chunks
    keys = [chunk.key for chunk in manifest.chunks]
    chunks = StoredChunks(session.catalogue.store, keys, plan, manifest.digest, digests, session.copy_threads)
    return CheckpointReader(generation, plan, chunks, VIEWS[framework](), terms)


class _FromFiles:
    """Copies tensors from the files of this process, which are mapped when the first one is asked for."""

    def __init__(self, files: TensorFiles) -> None:
        self._files = files
        self._tensors: Mapping[str, Any] | None = None

    def __call__(self, name: str, copied: Callable[[Any], Any]) -> Any:
        if self._tensors is None:
            self._tensors = _entries(self._files)
        if name not in self._tensors:
            raise IntegrityError(f"{self._files.root} has no tensor {name!r}", op="checkpoint", failed_keys=[name])
        tensor = copied(self._tensors[name])
        self._files.check("checkpoint")  # afterwards: what was copied is what was sampled
        return tensor
