"""``staged``: chunks are copied from a device into the worker's memory, and outlive who published them."""

from __future__ import annotations

from array import array

from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.hetero import HeteroKind, hetero
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.transports.jobs import LoadJob, PublishJob, StoreSession
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks

__all__ = ["Staged"]


class Staged:
    """MSetD2H and MGetH2D of openYuanrong."""

    name = "staged"
    by_reference = False

    def reaches(self, kind: DeviceKind) -> bool:
        return isinstance(kind, HeteroKind)

    def why_not(self, context: DeviceContext, addresses: array[int]) -> str | None:
        return None

    def largest_chunk(self, setting: int, uncut: int) -> int:
        """Several at a time have to fit openYuanrong's pool."""
        return min(setting or _core.STAGED_CHUNK_BYTES, _core.STAGED_CHUNK_BYTES)

    def data_keys(self, who: Identity, generation: str, chunks: int) -> list[str]:
        return _core.chunk_keys(who.staged_prefix(generation), chunks)

    def peer(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        return None

    def publish(self, job: PublishJob) -> None:
        _core.publish_staged(
            hetero(job.context, op="publish").receiver,
            job.plan,
            job.table.addresses,
            owners=job.table.memory(),
            key_prefix=job.who.staged_prefix(job.generation),
            ttl_s=job.ttl_s,
            deadline_s=job.deadline.left(),
        )

    def load(self, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
        return wanted.read_twice(_reader, attempt)


def _reader(job: LoadJob) -> _core.ChunkReader:
    generation = job.generation
    return _core.StagedReader(
        hetero(job.context, op="load").receiver,
        job.plan,
        generation.who.staged_prefix(generation.manifest.generation),
        chunks_ahead=2 * job.worker.config.chunks_ahead,
    )
