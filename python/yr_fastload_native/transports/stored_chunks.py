"""Chunks as they lie in the worker's memory: mapped where that can be done, copied where not, and compared."""

from __future__ import annotations

import functools
import logging
import threading
from array import array
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from yr_fastload_native import _core
from yr_fastload_native.errors import DeviceError, FastLoadError, IntegrityError, PartialTransferError
from yr_fastload_native.transports.alias_watchdog import watch
from yr_fastload_native.transports.jobs import StoreSession

__all__ = ["Memory", "StoredChunks"]

_log = logging.getLogger(__name__)

_INTACT_S = 60.0

Memory: TypeAlias = "_core.PrivateMemory | bytearray"
_Addresses: TypeAlias = "NDArray[np.uint64]"


class StoredChunks:
    """The chunks of one generation. Thread-safe.

    Args:
        worker: That holds them.
        key_prefix: Of their keys.
        plan: How tensors are cut into them.
        digest: Which one they have, of `_core.digest_names`.
        digests: Of each.

    Attributes:
        cut: Tensors that lie in several chunks.
    """

    def __init__(
        self,
        worker: StoreSession,
        key_prefix: str,
        plan: _core.Plan,
        digest: str,
        digests: Sequence[int],
    ) -> None:
        self._store = worker.catalogue.store
        self._keys = _core.chunk_keys(key_prefix, plan.chunks)
        self._reader = worker.mapping_reader(key_prefix, plan.chunks)
        self._plan = plan
        self._digest = digest
        self._digests = digests
        self._copy_threads = worker.copy_threads
        self._lock = threading.Lock()
        self._may_map = True
        self._blobs = np.asarray(plan.blobs).reshape(-1, 4)
        self._first_blob = np.asarray(plan.first_blob)
        tensor, tensor_offset = self._blobs[:, 0], self._blobs[:, 1]
        self.cut = frozenset(tensor[tensor_offset > 0].tolist())
        of_cut = np.flatnonzero(np.isin(tensor, list(self.cut)))
        # A chunk with a part of a tensor is not mapped: the part is copied to where the rest of it is.
        self._with_parts = frozenset((np.searchsorted(self._first_blob, of_cut, "right") - 1).tolist())
        # Of every tensor that is not cut: in this process, and as all have it.
        self._addresses = np.zeros(plan.tensors, np.uint64)
        self._shared = np.zeros(plan.tensors, np.uint64)

    def open(
        self, chunks: Sequence[int], *, ahead: Sequence[int] = (), compare: bool, deadline_s: float
    ) -> dict[int, Memory | FastLoadError]:
        """Bring chunks to this process: each one's memory, or why it cannot be used.

        Memory that is mapped is private, so that a write reaches nobody else, and watched as long as it is used.

        Args:
            chunks: Which ones.
            ahead: Others, as far as they can be mapped.
            compare: Whether every byte is compared with the chunk's digest.
            deadline_s: Bound of each call to the store, and of comparing, seconds.

        Raises:
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done in time.
        """
        with self._lock:
            found = self._fetched(chunks, ahead, deadline_s)
            if compare:
                found |= self._compared(found, self._addresses, deadline_s)
            for chunk, memory in found.items():
                if isinstance(memory, _core.PrivateMemory):
                    watch(
                        memory,
                        functools.partial(_intact, self._plan, self._digest, self._shared, chunk, self._digests[chunk]),
                    )
        return found

    def check(self, chunks: Sequence[int], *, deadline_s: float) -> None:
        """Compare chunks as all processes see them, which makes no page of this one's own.

        Args:
            chunks: Which ones.
            deadline_s: Bound of each call to the store, and of comparing, seconds.

        Raises:
            PartialTransferError: A chunk is not there.
            IntegrityError: One is damaged.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Not done in time.
        """
        with self._lock:
            found = self._fetched(chunks, (), deadline_s)
            found |= self._compared(found, self._shared, deadline_s)
        for memory in found.values():
            if isinstance(memory, FastLoadError):
                raise memory

    def _fetched(
        self, chunks: Sequence[int], ahead: Sequence[int], deadline_s: float
    ) -> dict[int, Memory | FastLoadError]:
        fetched = self._fetch(chunks, ahead, deadline_s)
        return {chunk: self._check_size(chunk, memory) for chunk, memory in fetched}

    def _fetch(self, chunks: Sequence[int], ahead: Sequence[int], deadline_s: float) -> list[tuple[int, Memory | None]]:
        whole = [chunk for chunk in (*chunks, *ahead) if self._may_map and chunk not in self._with_parts]
        found: list[tuple[int, Memory | None]] = []
        try:
            mapped = _core.map_chunks(self._reader, whole, deadline_s=deadline_s)
            found += zip(whole, mapped, strict=True)
        except DeviceError as error:
            self._may_map = False
            whole = []
            _log.info("%s; chunks are copied", str(error))
        for chunk in sorted(set(chunks) - set(whole)):
            value = self._store.get(self._keys[chunk], deadline_s=deadline_s)
            found.append((chunk, None if value is None else bytearray(value)))
        return found

    def _check_size(self, chunk: int, memory: Memory | None) -> Memory | FastLoadError:
        key, wanted = self._keys[chunk], self._plan.chunk_bytes[chunk]
        if memory is None:
            return PartialTransferError(f"chunk {chunk} is not there any more", op="checkpoint", failed_keys=[key])
        size = memory.nbytes if isinstance(memory, _core.PrivateMemory) else len(memory)
        if size != wanted:
            why = f"chunk {chunk} has {size} bytes, not {wanted}"
            return IntegrityError(why, op="checkpoint", failed_keys=[key])
        self._place(chunk, memory)
        return memory

    def _place(self, chunk: int, memory: Memory) -> None:
        """Note where a chunk's tensors lie: those of a mapped one for as long as it is mapped."""
        tensor, tensor_offset, _, chunk_offset = self._blobs[self._first_blob[chunk] : self._first_blob[chunk + 1]].T
        if isinstance(memory, _core.PrivateMemory):
            mine, shared = memory.address, memory.shared_address
        else:
            mine = shared = _core.buffer_view(memory).address
        self._addresses[tensor] = np.uint64(mine) + chunk_offset - tensor_offset
        self._shared[tensor] = np.uint64(shared) + chunk_offset - tensor_offset

    def _compared(
        self, found: dict[int, Memory | FastLoadError], addresses: _Addresses, deadline_s: float
    ) -> dict[int, Memory | FastLoadError]:
        """Those that are damaged, each with its error."""
        there = [chunk for chunk, memory in found.items() if not isinstance(memory, FastLoadError)]
        whole = [chunk for chunk in there if chunk not in self._with_parts]
        taken = dict(zip(whole, self._digests_of(whole, addresses, deadline_s), strict=True))
        for chunk in set(there) - set(whole):  # whose tensors have another address in each chunk
            memory = found[chunk]
            assert isinstance(memory, bytearray)
            self._place(chunk, memory)
            (taken[chunk],) = self._digests_of([chunk], addresses, deadline_s)
        damaged = [chunk for chunk, digest in taken.items() if digest != self._digests[chunk]]
        return {chunk: self._damaged(chunk) for chunk in damaged}

    def _digests_of(self, chunks: Sequence[int], addresses: _Addresses, deadline_s: float) -> Sequence[int]:
        return _core.digest_chunks(
            self._plan,
            addresses.data,
            copy_threads=self._copy_threads,
            deadline_s=deadline_s,
            chunks=array("Q", chunks),
            digest=self._digest,
        )

    def _damaged(self, chunk: int) -> IntegrityError:
        return IntegrityError(
            f"chunk {chunk} does not match its digest", op="checkpoint", failed_keys=[self._keys[chunk]]
        )


def _intact(plan: _core.Plan, kind: str, shared: _Addresses, chunk: int, digest: int) -> bool:
    (now,) = _core.digest_chunks(
        plan, shared.data, copy_threads=1, deadline_s=_INTACT_S, chunks=array("Q", [chunk]), digest=kind
    )
    return now == digest
