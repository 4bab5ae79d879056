"""What a transport is given: a publication to make, or a load to read for."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue, Generation
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.reporting.timeline import Timeline
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.chunk_digests import LocalChunks
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["LoadJob", "Progress", "PublishJob", "StoreSession"]

Progress = Callable[[int, int], None]


@attrs.frozen
class StoreSession:
    """The openYuanrong worker of a loader, and its settings for it.

    Attributes:
        connection: None where the loader was given a store; only `host` works then.
    """

    catalogue: Catalogue
    config: Config
    connection: _core.Connection | None
    copy_threads: int


@attrs.frozen
class PublishJob:
    """One new generation.

    Attributes:
        generation: Its name; nothing in the store tells of it yet.
        ttl_s: Life of what is stored until a lease renews it.
    """

    worker: StoreSession
    who: Identity
    generation: str
    table: TensorTable
    context: DeviceContext
    plan: _core.Plan
    ttl_s: int
    deadline: Deadline
    progress: Progress | None

    @property
    def chunks(self) -> LocalChunks:
        """The generation's chunks, as they lie in the tensors."""
        return LocalChunks(self.context, self.table, self.plan, None, self.worker.copy_threads)


@attrs.frozen
class LoadJob:
    """One load of a generation, into tensors whose layout agrees with its.

    Attributes:
        timeline: What was done when.
    """

    worker: StoreSession
    generation: Generation
    table: TensorTable
    context: DeviceContext
    plan: _core.Plan
    deadline: Deadline
    progress: Progress | None
    timeline: Timeline

    @property
    def chunks(self) -> LocalChunks:
        """The generation's chunks, as they lie in the tensors."""
        return LocalChunks(self.context, self.table, self.plan, self.generation.manifest, self.worker.copy_threads)
