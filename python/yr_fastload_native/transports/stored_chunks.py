"""Chunks as they lie in the worker's memory: mapped where that can be done, copied where not, and compared."""

from __future__ import annotations

import functools
import logging
import threading
from array import array
from collections.abc import Sequence
from typing import TypeAlias

from yr_fastload_native import _core
from yr_fastload_native.errors import DeviceError, FastLoadError, IntegrityError, PartialTransferError
from yr_fastload_native.transports.alias_watchdog import watch

__all__ = ["Memory", "StoredChunks"]

_log = logging.getLogger(__name__)

_INTACT_S = 60.0

Memory: TypeAlias = "_core.PrivateMemory | bytearray"


class StoredChunks:
    """The chunks of one generation. Thread-safe.

    Args:
        store: That holds them.
        keys: Of each.
        plan: How tensors are cut into them.
        digest: Which one they have, of `_core.digest_names`.
        digests: Of each.
        copy_threads: That compare.

    Attributes:
        cut: Tensors that lie in several chunks.
    """

    def __init__(
        self,
        store: _core.ObjectStore,
        keys: Sequence[str],
        plan: _core.Plan,
        digest: str,
        digests: Sequence[int],
        copy_threads: int,
    ) -> None:
        self._store = store
        self._keys = keys
        self._plan = plan
        self._digest = digest
        self._digests = digests
        self._copy_threads = copy_threads
        self._lock = threading.Lock()
        self._may_map = True
        blobs = plan.blobs
        self.cut = frozenset(blobs[at] for at in range(0, len(blobs), 4) if blobs[at + 1])
        # Of every tensor that is not cut: in this process, and as all have it.
        self._addresses = array("Q", bytes(8 * plan.tensors))
        self._shared = array("Q", self._addresses)

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
            fetched = self._fetch(chunks, ahead, deadline_s)
            found = {chunk: self._check_size(chunk, memory) for chunk, memory in fetched}
            if compare:
                found |= self._compared(found, deadline_s)
            for chunk, memory in found.items():
                if isinstance(memory, _core.PrivateMemory):
                    watch(
                        memory,
                        functools.partial(_intact, self._plan, self._digest, self._shared, chunk, self._digests[chunk]),
                    )
        return found

    def _fetch(self, chunks: Sequence[int], ahead: Sequence[int], deadline_s: float) -> list[tuple[int, Memory | None]]:
        whole = [chunk for chunk in (*chunks, *ahead) if self._may_map and not self._holds_parts(chunk)]
        found: list[tuple[int, Memory | None]] = []
        try:
            mapped = _core.map_objects(self._store, [self._keys[chunk] for chunk in whole], deadline_s=deadline_s)
            found += zip(whole, mapped, strict=True)
        except DeviceError as error:
            self._may_map = False
            whole = []
            _log.info("%s; chunks are copied", str(error))
        for chunk in sorted(set(chunks) - set(whole)):
            value = self._store.get(self._keys[chunk], deadline_s=deadline_s)
            found.append((chunk, None if value is None else bytearray(value)))
        return found

    def _holds_parts(self, chunk: int) -> bool:
        """Whether it cannot be mapped: a part of a tensor is copied to where the rest of it is."""
        return any(blob.tensor in self.cut for blob in self._plan.chunk(chunk))

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
        mapped = isinstance(memory, _core.PrivateMemory)
        start = memory.address if isinstance(memory, _core.PrivateMemory) else _core.buffer_view(memory).address
        for blob in self._plan.chunk(chunk):
            self._addresses[blob.tensor] = start + blob.chunk_offset - blob.tensor_offset
            if mapped and isinstance(memory, _core.PrivateMemory):
                self._shared[blob.tensor] = memory.shared_address + blob.chunk_offset

    def _compared(
        self, found: dict[int, Memory | FastLoadError], deadline_s: float
    ) -> dict[int, Memory | FastLoadError]:
        """Those that are damaged, each with its error."""
        there = [chunk for chunk, memory in found.items() if not isinstance(memory, FastLoadError)]
        whole = [chunk for chunk in there if not self._holds_parts(chunk)]
        taken = dict(zip(whole, self._digests_of(whole, deadline_s), strict=True))
        for chunk in set(there) - set(whole):  # whose tensors have another address in each chunk
            memory = found[chunk]
            assert isinstance(memory, bytearray)
            self._place(chunk, memory)
            (taken[chunk],) = self._digests_of([chunk], deadline_s)
        damaged = [chunk for chunk, digest in taken.items() if digest != self._digests[chunk]]
        return {chunk: self._damaged(chunk) for chunk in damaged}

    def _digests_of(self, chunks: Sequence[int], deadline_s: float) -> Sequence[int]:
        return _core.digest_chunks(
            self._plan,
            self._addresses,
            copy_threads=self._copy_threads,
            deadline_s=deadline_s,
            chunks=array("Q", chunks),
            digest=self._digest,
        )

    def _damaged(self, chunk: int) -> IntegrityError:
        return IntegrityError(
            f"chunk {chunk} does not match its digest", op="checkpoint", failed_keys=[self._keys[chunk]]
        )


def _intact(plan: _core.Plan, kind: str, shared: array[int], chunk: int, digest: int) -> bool:
    (now,) = _core.digest_chunks(
        plan, shared, copy_threads=1, deadline_s=_INTACT_S, chunks=array("Q", [chunk]), digest=kind
    )
    return now == digest
