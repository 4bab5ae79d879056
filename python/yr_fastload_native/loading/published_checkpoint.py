"""The tensors of a published checkpoint, as they lie in the worker's memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from yr_fastload_native.catalogue.checkpoint import is_tensor
from yr_fastload_native.loading.checkpoint_reader import CheckpointReader

__all__ = ["PublishedCheckpoint"]


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
            ResourceExhaustedError: The worker has no room for them beside those of other tensors that are in use.
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
