"""What a transport is given: a publication to make, or a load to read for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue, Generation
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import Manifest
from yr_fastload_native.checkpoints.mapped_file import MappedFile
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.reporting.timeline import Timeline
from yr_fastload_native.settings import Config, host_of, is_loopback
from yr_fastload_native.transports.chunk_digests import LocalChunks
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["LoadJob", "Progress", "PublishJob", "Request", "StoreSession"]

Progress = Callable[[int, int], None]


@attrs.frozen
class StoreSession:
    """The openYuanrong worker of a loader, and its settings for it.

    Attributes:
        connection: None where the loader was given a store; only `host` works then.
        address: Of the worker, ``HOST:PORT``; empty where the loader was given a store.
    """

    catalogue: Catalogue
    config: Config
    connection: _core.Connection | None
    copy_threads: int
    address: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether its worker is on loopback, where it has no others."""
        return is_loopback(host_of(self.address))

    def mapping_reader(self, key_prefix: str, chunks: int) -> _core.StoreReader:
        """Of this many stored chunks, which are to be mapped.

        A worker that is alone has all in its memory, which need not be asked for as a link carries it.
        """
        batch = max(1, chunks)
        return _core.StoreReader(
            self.catalogue.store, key_prefix, first_batch=batch if self.is_alone else 1, batch=batch
        )


@attrs.frozen
class Request:
    """What a caller asks for: to have tensors published, or others loaded into.

    Attributes:
        who: Under what they are published.
        context: Where the tensors lie.
    """

    worker: StoreSession
    who: Identity
    table: TensorTable
    context: DeviceContext
    deadline: Deadline
    progress: Progress | None

    def to_publish(self, generation: str, plan: _core.Plan, ttl_s: int) -> PublishJob:
        return PublishJob(*self._fields(), generation, plan, ttl_s)

    def to_load(self, generation: Generation, plan: _core.Plan, timeline: Timeline) -> LoadJob:
        return LoadJob(*self._fields(), generation, plan, timeline)

    def chunks_of(self, plan: _core.Plan, manifest: Manifest | None) -> LocalChunks:
        """The chunks of a generation, as they lie in the tensors."""
        return LocalChunks(self.context, self.table, plan, manifest, self.worker.copy_threads)

    def _fields(self) -> tuple[StoreSession, Identity, TensorTable, DeviceContext, Deadline, Progress | None]:
        return self.worker, self.who, self.table, self.context, self.deadline, self.progress


@attrs.frozen
class PublishJob(Request):
    """One new generation.

    Attributes:
        generation: Its name; nothing in the store tells of it yet.
        ttl_s: Life of what is stored until a lease renews it.
        stored: Called with chunks and their digests once they are stored, by a transport that copies; with none at
            first, once there is room for all.
        files: Mapped ones that tensors may lie in.
    """

    generation: str
    plan: _core.Plan
    ttl_s: int
    stored: Callable[[Sequence[tuple[int, int]]], None] | None = None
    files: Sequence[MappedFile] = ()

    @property
    def chunks(self) -> LocalChunks:
        return self.chunks_of(self.plan, None)


@attrs.frozen
class LoadJob(Request):
    """One load of a generation, into tensors whose layout agrees with its.

    Attributes:
        timeline: What was done when.
    """

    generation: Generation
    plan: _core.Plan
    timeline: Timeline

    @property
    def chunks(self) -> LocalChunks:
        return self.chunks_of(self.plan, self.generation.manifest)
