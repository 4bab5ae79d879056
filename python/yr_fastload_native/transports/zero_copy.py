"""Tensors that are what lies in the worker's memory: no byte moves until somebody writes, who gets a copy of that page.

By `host`, with ``zero_copy``. A chunk is aliased if every blob in it is a whole tensor, and each of these can be given
other memory; what cannot is copied as ever.
"""

from __future__ import annotations

import functools
import logging
from array import array
from collections.abc import Callable, Iterable, Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.errors import DeviceError
from yr_fastload_native.transports.alias_watchdog import alias_finder, watch
from yr_fastload_native.transports.jobs import LoadJob
from yr_fastload_native.transports.wanted import Attempt, WantedChunks

__all__ = ["alias"]

_log = logging.getLogger(__name__)

_INTACT_S = 60.0


@attrs.frozen(eq=False)
class _Alias:
    """A chunk in memory of this process's own.

    Attributes:
        memory: The chunk's bytes.
        tensors: Where each of its tensors begins there, bytes, by its index in the manifest.
    """

    chunk: int
    memory: _core.PrivateMemory
    tensors: dict[int, int]


def alias(wanted: WantedChunks, attempt: Attempt) -> None:
    """Have tensors use the worker's memory itself where they can; what they cannot is still wanted afterwards.

    Raises:
        UnavailableError: The worker does not answer.
        TransferTimeoutError: Not done in time.
    """
    job = wanted.job
    if not job.context.kind.aliasable:
        attempt.note = f"not aliased: the tensors are {job.context.kind.where}"
        return
    try:
        with job.timeline.stage("fetch"):
            found = _map_chunks(job, wanted.numbers)
    except DeviceError as error:
        attempt.note = str(error)
        _log.info("%s; they are copied", error)
        return
    if not found:
        return
    if job.worker.config.verify == "digest":
        with job.timeline.stage("digest", sum(each.memory.nbytes for each in found)):
            found = _unharmed(job, found)
    wanted.memory_written = True
    with job.timeline.stage("finish"):
        aliased = _take(job, found)
    wanted.aliased_bytes += aliased
    attempt.bytes += aliased
    wanted.drop({each.chunk for each in found})


def _map_chunks(job: LoadJob, wanted: Iterable[int]) -> list[_Alias]:
    """Map those of the wanted chunks that are there and that all their tensors can alias.

    Raises:
        DeviceError: The worker's memory cannot be mapped a second time from here.
        UnavailableError: The worker does not answer.
        TransferTimeoutError: Nor in time.
    """
    sizes = job.plan.chunk_bytes
    tensors = _tensors_by_chunk(job, wanted)
    if not tensors:
        return []
    reader = job.worker.mapping_reader(job.generation.chunk_prefix, job.plan.chunks)
    mapped = _core.map_chunks(reader, list(tensors), deadline_s=job.deadline.left())
    return [
        _Alias(chunk, memory, offsets)
        for (chunk, offsets), memory in zip(tensors.items(), mapped, strict=True)
        if memory is not None and memory.nbytes == sizes[chunk] and memory.address % _core.BLOB_ALIGNMENT == 0
    ]


def _tensors_by_chunk(job: LoadJob, wanted: Iterable[int]) -> dict[int, dict[int, int]]:
    """Of each chunk that all its tensors can alias, where these begin in it."""
    table, plan = job.table, job.plan
    places = job.generation.manifest.places_in(table)
    movable = table.movable(alias_finder())
    first, blobs = plan.first_blob, plan.blobs.tolist()
    found: dict[int, dict[int, int]] = {}
    for chunk in wanted:
        rows = blobs[4 * first[chunk] : 4 * first[chunk + 1]]
        tensors, sizes, offsets = rows[0::4], rows[2::4], rows[3::4]
        mine = [places[tensor] for tensor in tensors]
        if movable.issuperset(mine) and sizes == [table.sizes[place] for place in mine]:
            found[chunk] = dict(zip(tensors, offsets, strict=True))
    return found


def _unharmed(job: LoadJob, found: Sequence[_Alias]) -> list[_Alias]:
    """Those whose bytes have the publisher's digest: every byte is read, and none is copied.

    Raises:
        TransferTimeoutError: Not done in time.
    """
    digests = _digests(job)
    mine = _core.digest_chunks(
        job.plan,
        _addresses(job, found, lambda memory: memory.address),
        copy_threads=job.worker.copy_threads,
        deadline_s=job.deadline.left(),
        chunks=array("Q", [each.chunk for each in found]),
        digest=job.chunks.digest,
    )
    return [each for each, digest in zip(found, mine, strict=True) if digest == digests[each.chunk]]


def _take(job: LoadJob, found: Sequence[_Alias]) -> int:
    """Have the tensors use this memory from now on; returns its bytes."""
    table, places, digests = job.table, job.generation.manifest.places_in(job.table), _digests(job)
    table.alias_memory(
        {places[tensor]: (each.memory, offset) for each in found for tensor, offset in each.tensors.items()}
    )
    shared = _addresses(job, found, lambda memory: memory.shared_address)
    for each in found:
        watch(
            each.memory,
            functools.partial(_intact, job.plan, job.chunks.digest, shared, each.chunk, digests[each.chunk]),
        )
    return sum(table.sizes[places[tensor]] for each in found for tensor in each.tensors)


def _intact(plan: _core.Plan, kind: str, addresses: array[int], chunk: int, digest: int) -> bool:
    (now,) = _core.digest_chunks(
        plan, addresses, copy_threads=1, deadline_s=_INTACT_S, chunks=array("Q", [chunk]), digest=kind
    )
    return now == digest


def _digests(job: LoadJob) -> array[int]:
    return job.worker.catalogue.wait_for_digests(job.generation, job.deadline, op="load").chunks


def _addresses(job: LoadJob, found: Sequence[_Alias], base: Callable[[_core.PrivateMemory], int]) -> array[int]:
    """Of the manifest's tensors; 0 for those of other chunks."""
    made = array("Q", bytes(8 * job.plan.tensors))
    for each in found:
        start = base(each.memory)
        for index, offset in each.tensors.items():
            made[index] = start + offset
    return made
