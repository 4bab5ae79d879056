"""``host``: chunks are objects in the worker's shared memory, which every process of the machine maps."""

from __future__ import annotations

import logging

from yr_fastload_native import _core
from yr_fastload_native.identity import Identity
from yr_fastload_native.transports.jobs import LoadJob, PublishJob

__all__ = ["NAME", "data_keys", "publish", "reader"]

NAME = "host"

_log = logging.getLogger(__name__)


def data_keys(who: Identity, generation: str, chunks: int) -> list[str]:
    """What it keeps in the store."""
    return _core.chunk_keys(who.chunk_prefix(generation), chunks)


def publish(job: PublishJob) -> memoryview:
    """Copy all tensors into the worker; returns the digest of each chunk."""
    worker = job.worker
    digests, seconds = _core.publish_chunks(
        worker.catalogue.store,
        job.plan,
        job.table.addresses,
        key_prefix=job.who.chunk_prefix(job.generation),
        ttl_s=job.ttl_s,
        copy_threads=worker.copy_threads,
        chunks_in_flight=worker.config.chunks_in_flight,
        verify=True,
        deadline_s=job.deadline.left(),
        progress=job.progress,
    )
    _log.debug("published %d chunks: %s", job.plan.chunks, seconds)
    return digests


def reader(job: LoadJob) -> _core.ChunkReader:
    worker = job.worker
    return _core.StoreReader(
        worker.catalogue.store,
        job.generation.chunk_prefix,
        first_batch=2 * worker.copy_threads,
        batch=max(1, worker.config.chunks_in_flight // 2),
    )
