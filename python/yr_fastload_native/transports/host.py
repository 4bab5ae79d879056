"""``host``: chunks are objects in the worker's shared memory, which every process of the machine maps."""

from __future__ import annotations

import ipaddress
import logging
import zlib
from array import array

from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.settings import host_of, is_loopback
from yr_fastload_native.transports.jobs import LoadJob, PublishJob, StoreSession
from yr_fastload_native.transports.wanted import Attempt, Failure, WantedChunks
from yr_fastload_native.transports.zero_copy import alias

__all__ = ["Host", "share_of"]

_log = logging.getLogger(__name__)

_MIB = 1 << 20
_CHUNK_BYTES = 32 * _MIB  # small enough to overlap fetching with copying
_GOLDEN_RATIO = (5**0.5 - 1) / 2
_NUMBERS = 1 << 32
_UNCUT_BYTES = 4096 * _MIB  # a tensor beyond that is cut all the same


class Host:
    """Copies into the worker's memory, and out of it."""

    name = "host"
    by_reference = False

    def reaches(self, kind: DeviceKind) -> bool:
        return True

    def why_not(self, context: DeviceContext, addresses: array[int]) -> str | None:
        return None

    def largest_chunk(self, setting: int, uncut: int) -> int:
        aligned = -(-uncut // _core.BLOB_ALIGNMENT) * _core.BLOB_ALIGNMENT
        return setting or max(_CHUNK_BYTES, min(_UNCUT_BYTES, aligned))

    def data_keys(self, who: Identity, generation: str, chunks: int) -> list[str]:
        return _core.chunk_keys(who.chunk_prefix(generation), chunks)

    def peer(self, worker: StoreSession, who: Identity, generation: str, context: DeviceContext) -> None:
        return None

    def publish(self, job: PublishJob) -> memoryview:
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
            device=job.context.device,
            pool=job.context.pool,
            stored=job.stored,
            files=[file.place for file in job.files],
            digest=job.chunks.digest,
        )
        _log.debug("published %d chunks: %s", job.plan.chunks, seconds)
        return digests

    def load(self, wanted: WantedChunks, attempt: Attempt) -> list[Failure]:
        worker = wanted.job.worker
        wanted.begin_with(int(share_of(worker.address) * wanted.job.plan.chunks))
        if worker.config.zero_copy is True:
            alias(wanted, attempt)
            if not wanted:
                return []
        failures = wanted.read_twice(_reader, attempt)
        locked = wanted.job.context.locked
        why = None if locked is None else locked.take_refusal()
        if why is not None:
            _log.warning("pin='pool' is given up, bytes go on passing through staging memory: %s", why)
        return failures


def share_of(worker: str) -> float:
    """Where in a model the readers of a worker begin, in [0, 1): hosts that read at once then fetch from each other.

    With one order for all, each would fetch each chunk from the publisher, for nobody else has it yet. Multiples of the
    golden ratio spread addresses that follow each other evenly.

    Args:
        worker: Its ``HOST:PORT``; empty for a store that is no worker's.
    """
    host = host_of(worker)
    if is_loopback(host):
        return 0.0
    try:
        return int(ipaddress.ip_address(host)) % _NUMBERS * _GOLDEN_RATIO % 1.0
    except ValueError:
        return zlib.crc32(host.encode()) / _NUMBERS


def _reader(job: LoadJob) -> _core.ChunkReader:
    worker = job.worker
    return _core.StoreReader(
        worker.catalogue.store,
        job.generation.chunk_prefix,
        first_batch=1,
        batch=max(1, worker.config.chunks_in_flight // 2),
    )
