"""``staged``: chunks are copied from a device into the worker's memory, and outlive who published them."""

from __future__ import annotations

from yr_fastload_native import _core
from yr_fastload_native.devices.hetero import hetero
from yr_fastload_native.identity import Identity
from yr_fastload_native.transports.jobs import LoadJob, PublishJob

__all__ = ["NAME", "data_keys", "publish", "reader"]

NAME = "staged"


def data_keys(who: Identity, generation: str, chunks: int) -> list[str]:
    """What it keeps in the store."""
    return _core.chunk_keys(who.staged_prefix(generation), chunks)


def publish(job: PublishJob) -> None:
    """Copy all tensors into the worker."""
    _core.publish_staged(
        hetero(job.context, op="publish").receiver,
        job.plan,
        job.table.addresses,
        owners=job.table.memory(),
        key_prefix=job.who.staged_prefix(job.generation),
        ttl_s=job.ttl_s,
        deadline_s=job.deadline.left(),
    )


def reader(job: LoadJob) -> _core.ChunkReader:
    generation = job.generation
    return _core.StagedReader(
        hetero(job.context, op="load").receiver,
        job.plan,
        generation.who.staged_prefix(generation.manifest.generation),
        chunks_ahead=2 * job.worker.config.chunks_ahead,
    )
