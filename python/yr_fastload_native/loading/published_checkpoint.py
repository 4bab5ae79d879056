"""The tensors of a published checkpoint, as they lie in the worker's memory."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import RLock
from typing import Any

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Generation
from yr_fastload_native.catalogue.checkpoint import is_tensor
from yr_fastload_native.catalogue.manifest import TensorEntry
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    PartialTransferError,
    TransferTimeoutError,
    UnavailableError,
)
from yr_fastload_native.transports.stored_chunks import Memory, StoredChunks
from yr_fastload_native.weights.tensor_reader import dense_strides
from yr_fastload_native.weights.views import ITEM_BYTES, Views

__all__ = ["CheckpointReader", "PublishedCheckpoint", "ReadTerms"]

_log = logging.getLogger(__name__)

_EMPTY_BYTES = 64
_MOST_DIMENSIONS = 32  # of an array in numpy 1
_CLIP = 200  # longest quote of a name in an error message
_MOST_COPIES = 4  # chunks that are kept where they cannot be mapped


@attrs.frozen(kw_only=True)
class ReadTerms:
    """How a published checkpoint is read.

    Attributes:
        compare: Whether the bytes of each chunk are compared with its digest when it comes to this process.
        ahead: Chunks that are asked for at once.
        window: Most chunks that are kept beside those that tensors use; 0: all.
        deadline_s: Bound of each request, seconds.
        instead: Where the worker does not give a tensor: copies it, by the function that it is given, from where the
            same bytes are known to be. None: that is an error.
    """

    compare: bool
    ahead: int
    window: int
    deadline_s: float
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
        self, generation: Generation, plan: _core.Plan, chunks: StoredChunks, views: Views, terms: ReadTerms
    ) -> None:
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
        self._cut = {entries[number].name: number for number in chunks.cut}
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
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Nor in time.
        """
        entry = self.entries[name]
        with self._lock:
            try:
                base, offset = self._place(entry)
            except (PartialTransferError, IntegrityError, UnavailableError, TransferTimeoutError) as error:
                return self._from_elsewhere(name, error)
        return self._views.tensor(base, offset, entry.dtype, entry.shape, entry.strides)

    def drop(self) -> None:
        """Let go of the chunks that no tensor uses."""
        with self._lock:
            self._chunks_held.clear()

    def _place(self, entry: TensorEntry) -> tuple[Any, int]:
        """What a tensor lies in, and the offset of its first byte there."""
        owner, start = (entry, 0) if entry.alias is None else (self.entries[entry.alias[0]], entry.alias[1])
        if owner.chunk < 0:
            return self._views.base(bytearray(_EMPTY_BYTES)), 0
        if owner.name in self._cut:
            return self._joined(owner), start
        return self._held(owner.chunk).base, owner.offset + start

    def _held(self, chunk: int) -> _Held:
        """A chunk; those that follow are asked for with it."""
        if chunk not in self._chunks_held:
            found = self._asked(chunk, range(chunk + 1, min(chunk + self._terms.ahead, self._plan.chunks)))
            if isinstance(found[chunk], FastLoadError):
                found |= self._asked(chunk, ())
            for each, memory in found.items():
                if not isinstance(memory, FastLoadError):
                    self._chunks_held[each] = _Held(memory, self._views.base(memory))
                elif each == chunk:
                    raise memory
        self._chunks_held.move_to_end(chunk)
        held = self._chunks_held[chunk]
        most = self._terms.window or (_MOST_COPIES if isinstance(held.memory, bytearray) else len(self._chunks_held))
        while len(self._chunks_held) > most:
            self._chunks_held.popitem(last=False)
        return held

    def _asked(self, chunk: int, following: Iterable[int]) -> dict[int, Memory | FastLoadError]:
        if self._silent is not None:
            raise self._silent
        terms, ahead = self._terms, [each for each in following if each not in self._chunks_held]
        try:
            return self._chunks.open([chunk], ahead=ahead, compare=terms.compare, deadline_s=terms.deadline_s)
        except (UnavailableError, TransferTimeoutError) as error:
            self._silent = None if self._terms.instead is None else error
            raise

    def _joined(self, entry: TensorEntry) -> Any:
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
        return self._views.base(memory)

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


class PublishedCheckpoint(Mapping[str, Any]):
    """Tensors of a published checkpoint by their names: whole, as they are in its files, and mapped when asked for.

    They lie in the worker's memory, which every reader of the machine shares. Arrays of numpy cannot be written to; a
    write to a tensor of torch's is seen by nobody else. They live on when this is closed or the checkpoint withdrawn.
    Tensors come in the order of the files. Safe to use from several threads.
    """

    def __init__(self, reader: CheckpointReader, names: Iterable[str] | None = None) -> None:
        """With ``names``, only these of the reader's tensors."""
        self._reader = reader
        wanted = None if names is None else set(names)
        self._names = {name: None for name in reader.entries if wanted is None or name in wanted}
        if wanted is None:
            self._names = {name: None for name in self._names if is_tensor(name)}

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it is published as."""
        return self._reader.generation.manifest.identity

    @property
    def generation(self) -> str:
        """The version that is read; the published one may be another by now."""
        return self._reader.generation.manifest.generation

    @property
    def from_files(self) -> list[str]:
        """Names of the tensors that were read from the files, because the worker did not give them."""
        return list(self._reader.elsewhere)

    @property
    def bytes(self) -> int:
        """Of its tensors, tied ones once."""
        entries = self._reader.entries
        return sum(entries[name].bytes for name in self._names if entries[name].alias is None)

    def select(self, names: Iterable[str] = (), *, prefix: str = "") -> PublishedCheckpoint:
        """Some of its tensors.

        Args:
            names: These.
            prefix: And, unless it is empty, all whose name begins like this.

        Raises:
            KeyError: There is none of a name.
        """
        wanted = list(names)
        for name in wanted:
            if name not in self._names:
                raise KeyError(name)
        wanted += [name for name in self._names if prefix and name.startswith(prefix)]
        return PublishedCheckpoint(self._reader, wanted)

    def with_entries(self) -> PublishedCheckpoint:
        """All tensors, and what was published beside them to write the same files again."""
        return PublishedCheckpoint(self._reader, self._reader.entries)

    def close(self) -> None:
        """Let go of the memory that no tensor uses. Idempotent; tensors can still be asked for."""
        self._reader.drop()

    def __getitem__(self, name: str) -> Any:
        """A tensor.

        Raises:
            KeyError: There is none of this name.
            PartialTransferError: Its bytes are gone, and stayed so when asked for again.
            IntegrityError: They are damaged, and stayed so.
            UnavailableError: The worker does not answer.
            TransferTimeoutError: Nor in time.
        """
        if name not in self._names:
            raise KeyError(name)
        return self._reader.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __enter__(self) -> PublishedCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PublishedCheckpoint {self.generation}: {len(self)} tensors, {self.bytes} bytes>"
