"""Brings tensors of a published checkpoint from the worker's memory, one by one."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from threading import RLock
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Generation
from yr_fastload_native.catalogue.manifest import TensorEntry
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    PartialTransferError,
    ResourceExhaustedError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.loading.arriving import Arriving, LateError
from yr_fastload_native.transports.stored_chunks import Memory, StoredChunks
from yr_fastload_native.weights.tensor_reader import dense_strides
from yr_fastload_native.weights.views import ITEM_BYTES, Views

__all__ = ["CheckpointReader", "ReadTerms"]

_log = logging.getLogger(__name__)

_EMPTY_BYTES = 64
_MOST_DIMENSIONS = 32  # of an array in numpy 1
_CLIP = 200  # longest quote of a name in an error message
_PATIENCE_S = 5.0  # of a call that asks for more than one chunk
_MOST_COPIES = 4  # chunks that are kept where they cannot be mapped
_ELSEWHERE = (PartialTransferError, IntegrityError, ResourceExhaustedError, UnavailableError, TransferTimeoutError)


@attrs.frozen(kw_only=True)
class ReadTerms:
    """How a published checkpoint is read.

    Attributes:
        compare: Whether the bytes of each chunk are compared with its digest when it comes to this process.
        ahead: Chunks that are asked for at once.
        window: Most chunks that are kept beside those that tensors use; 0: as many as the worker has room for.
        deadline_s: Bound of each request, seconds.
        sha256: What each tensor that moves has to be, by name: it is copied, and compared before it is given. None: any
            will do.
        instead: Where the worker does not give a tensor: copies it, by the function that it is given, from where the
            same bytes are known to be. None: that is an error.
    """

    compare: bool
    ahead: int
    window: int
    deadline_s: float
    sha256: Mapping[str, str] | None
    instead: Callable[[str, Callable[[Any], Any]], Any] | None


@attrs.frozen
class _Held:
    """A chunk that is kept, and what tensors of a framework can lie in."""

    memory: Memory
    base: Any


class CheckpointReader:
    """Brings tensors of one generation by their names. Thread-safe.

    Attributes:
        entries: What the manifest says of each, in its order.
        elsewhere: Names of those that came from elsewhere.
    """

    def __init__(
        self,
        generation: Generation,
        plan: _core.Plan,
        chunks: StoredChunks,
        views: Views,
        terms: ReadTerms,
        arriving: Arriving | None = None,
    ) -> None:
        """With ``arriving``, chunks that are still being stored are waited for."""
        entries = generation.manifest.tensors
        for entry in entries:
            _check(entry)
        self.entries = {entry.name: entry for entry in entries}
        self.generation = generation
        self.elsewhere: list[str] = []
        self._plan = plan
        self._chunks = chunks
        self._views = views
        self._terms = terms
        self._ahead = terms.ahead
        self._is_cramped = False  # the worker had no room for as many: those of the call before make way for the next
        self._arriving = arriving
        self._cut = {entries[number].name: number for number in chunks.cut}
        # What lies in one chunk, and is taken from there as it is; and the chunks that are mapped to stay.
        self._direct: frozenset[str] = frozenset()
        if terms.sha256 is None and not terms.window:
            whole = (entry.name for entry in entries if entry.alias is None and entry.chunk >= 0)
            self._direct = frozenset(whole) - self._cut.keys()
        self._bases: dict[int, Any] = {}
        self._numbers = {entry.name: number for number, entry in enumerate(entries)}
        self._lock = RLock()
        self._chunks_held: OrderedDict[int, _Held] = OrderedDict()
        self._silent: FastLoadError | None = None  # once the worker did not answer, it is not asked again

    def tensor(self, name: str) -> Any:
        """A tensor, or another entry.

        Raises:
            KeyError: There is none of this name.
            PartialTransferError: A chunk is gone, and stayed so when asked for again.
            IntegrityError: A chunk is damaged, and stayed so.
            ResourceExhaustedError: The worker has no room for a chunk of another host beside what tensors use.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Nor in time.
        """
        entry = self.entries[name]
        if name in self._direct and (base := self._bases.get(entry.chunk)) is not None:  # as most of thousands
            return self._views.tensor(base, entry.offset, entry.dtype, entry.shape, entry.strides)
        with self._lock:
            try:
                base, offset = self._place(entry)
            except _ELSEWHERE as error:
                return self._from_elsewhere(name, error)
        return self._views.tensor(base, offset, entry.dtype, entry.shape, entry.strides)

    def drop(self) -> None:
        """Let go of the chunks that no tensor uses."""
        with self._lock:
            self._chunks_held.clear()
            self._bases.clear()

    def _place(self, entry: TensorEntry) -> tuple[Any, int]:
        """What a tensor lies in, and the offset of its first byte there."""
        owner, start = (entry, 0) if entry.alias is None else (self.entries[entry.alias[0]], entry.alias[1])
        if owner.chunk < 0:
            return self._views.base(bytearray(_EMPTY_BYTES)), 0
        if owner.name in self._cut:
            memory = self._joined(owner)
        elif self._terms.sha256 is None:
            return self._held(owner.chunk).base, owner.offset + start
        else:
            whole: Any = self._held(owner.chunk).memory
            memory = bytearray(memoryview(whole)[owner.offset : owner.offset + owner.bytes])
        self._check_trusted(owner, memory)
        return self._views.base(memory), start

    def _check_trusted(self, owner: TensorEntry, memory: bytearray) -> None:
        sums = self._terms.sha256
        if sums is not None and hashlib.sha256(memory).hexdigest() != sums[owner.name]:
            raise IntegrityError(
                f"tensor {owner.name[:_CLIP]!r} is not the trusted one by SHA-256",
                op="checkpoint",
                failed_keys=[owner.name],
            )

    def _held(self, chunk: int) -> _Held:
        """A chunk; those that follow are asked for with it."""
        if chunk not in self._chunks_held:
            for each, memory in self._brought(chunk).items():
                if not isinstance(memory, FastLoadError):
                    self._keep(each, _Held(memory, self._views.base(memory)))
                elif each == chunk:
                    raise memory
        self._chunks_held.move_to_end(chunk)
        held = self._chunks_held[chunk]
        most = self._terms.window or (_MOST_COPIES if isinstance(held.memory, bytearray) else len(self._chunks_held))
        while len(self._chunks_held) > most:
            self._chunks_held.popitem(last=False)
        return held

    def _brought(self, chunk: int) -> dict[int, Memory | FastLoadError]:
        """A chunk, and of those that follow as many as there is room for.

        A worker that has no room for what comes from another host says so, or does not answer in time.
        """
        self._await(chunk)
        end = time.monotonic() + self._terms.deadline_s
        while True:
            if self._is_cramped:
                self.drop()
            is_least = self._ahead == 1 and not self._chunks_held
            left_s = end - time.monotonic()
            try:
                return self._asked(chunk, left_s if is_least else min(left_s, _PATIENCE_S))
            except (ResourceExhaustedError, TransferTimeoutError) as error:
                if is_least or time.monotonic() >= end:
                    self._note(error)
                    raise
                self._is_cramped = True
                self._ahead = max(1, self._ahead // 2)
            except UnavailableError as error:
                self._note(error)
                raise

    def _await(self, chunk: int) -> None:
        if self._silent is not None:
            raise self._silent
        if self._arriving is None:
            return
        try:
            self._arriving.wait(chunk)
        except LateError:
            raise
        except (UnavailableError, TransferTimeoutError) as error:
            self._note(error)
            raise

    def _asked(self, chunk: int, deadline_s: float) -> dict[int, Memory | FastLoadError]:
        following: Iterable[int] = range(chunk + 1, min(chunk + self._ahead, self._plan.chunks))
        if self._arriving is not None:
            following = filter(self._arriving.has, following)
        ahead = [each for each in following if each not in self._chunks_held]
        compare = self._terms.compare
        found = self._chunks.open([chunk], ahead=ahead, compare=compare, deadline_s=deadline_s)
        if isinstance(found[chunk], FastLoadError):
            found |= self._chunks.open([chunk], compare=compare, deadline_s=deadline_s)
        return found

    def _note(self, error: FastLoadError) -> None:
        if self._terms.instead is not None and not isinstance(error, ResourceExhaustedError):
            self._silent = error

    def _keep(self, chunk: int, held: _Held) -> None:
        self._chunks_held[chunk] = held
        if not self._terms.window and not isinstance(held.memory, bytearray):
            self._bases[chunk] = held.base

    def _joined(self, entry: TensorEntry) -> bytearray:
        """A tensor that lies in several chunks, in memory of its own."""
        memory = bytearray(entry.bytes)
        number, chunk, done = self._numbers[entry.name], entry.chunk, 0
        while done < entry.bytes:
            memory_of_chunk: Any = self._held(chunk).memory
            source = memoryview(memory_of_chunk)
            for blob in self._plan.chunk(chunk):
                if blob.tensor == number:
                    end = blob.tensor_offset + blob.bytes
                    memory[blob.tensor_offset : end] = source[blob.chunk_offset : blob.chunk_offset + blob.bytes]
                    done += blob.bytes
            chunk += 1
        return memory

    def _from_elsewhere(self, name: str, error: FastLoadError) -> Any:
        instead = self._terms.instead
        if instead is None:
            raise error
        if not self.elsewhere:
            _log.warning("what the worker does not give is read from the files: %s", str(error))
        self.elsewhere.append(name)
        return instead(name, self._views.copied)


def _check(entry: TensorEntry) -> None:
    """Refuse an entry that no tensor has, since there is no tensor here whose layout it must have."""
    item = ITEM_BYTES.get(entry.dtype)
    if item is None:
        why = f"has dtype {entry.dtype!r}, which is not one of {', '.join(ITEM_BYTES)}"
    elif len(entry.shape) > _MOST_DIMENSIONS or math.prod(max(1, length) for length in entry.shape) * item >= 1 << 63:
        why = "has an impossible shape"
    elif math.prod(entry.shape) * item != entry.bytes or dense_strides(entry.shape, entry.strides) != entry.strides:
        why = f"of shape {entry.shape} and strides {entry.strides} does not fill {entry.bytes} bytes"
    else:
        return
    raise IntegrityError(f"published tensor {entry.name[:_CLIP]!r} {why}", op="checkpoint", failed_keys=[entry.name])
