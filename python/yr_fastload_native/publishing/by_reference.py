"""Tensors that are handed out by reference, and whether they are still what was published."""

from __future__ import annotations

from collections.abc import Set

import attrs

from yr_fastload_native.catalogue.catalogue import Catalogue, Generation, SupersededError
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.transports.chunk_digests import LocalChunks

__all__ = ["PublishedByReference"]


@attrs.frozen
class PublishedByReference:
    """What one process hands out of a generation.

    Attributes:
        chunks: The tensors, cut into the generation's chunks.
        versions: Of the tensors as they were published; None where they have none.
    """

    catalogue: Catalogue
    generation: Generation
    chunks: LocalChunks
    versions: list[int] | None

    def marks(self) -> list[int] | None:
        """What tells, at little cost, that a tensor may have changed: its version. None where one has none."""
        return self.chunks.table.versions()

    def written(self) -> list[str]:
        """Names of the tensors that were written to since they were published.

        Raises:
            RuntimeError: They do not tell; their digests have to be taken before they are published.
        """
        now = self.marks()
        if self.versions is None or now is None:
            raise RuntimeError("tensors that do not tell when they are written to have their digests taken first")
        names = self.chunks.table.names
        return [name for name, old, new in zip(names, self.versions, now, strict=True) if old != new]

    def moved(self) -> list[str]:
        """Names of the tensors that lie elsewhere now."""
        table = self.chunks.table
        return [
            name
            for name, value, address in zip(table.names, table.values, table.addresses, strict=True)
            if address and getattr(value, "data_ptr", lambda at=address: at)() != address
        ]

    def kept_beside(self, used: Set[int]) -> int:
        """Bytes of storages that are not among those used."""
        kept = {}
        table = self.chunks.table
        for value, address in zip(table.values, table.addresses, strict=True):
            storage = getattr(value, "untyped_storage", None)
            if address and storage is not None and storage().data_ptr() not in used:
                kept[storage().data_ptr()] = storage().nbytes()
        return sum(kept.values())

    def changed(self, deadline: Deadline) -> list[str]:
        """Names of the tensors that lie elsewhere now, or share a chunk with bytes that differ from their digest.

        Raises:
            NotPublishedError: The generation is no longer the current one, so there is nothing to compare with.
            TransferTimeoutError: Not done in time.
        """
        manifest, plan = self.generation.manifest, self.chunks.plan
        moved = self.moved()
        try:
            published = self.catalogue.wait_for_digests(self.generation, deadline, op="check").chunks
        except SupersededError:
            raise NotPublishedError("a newer generation took over", op="check") from None
        self.chunks.context.synchronize()
        now = self.chunks.digests(deadline.left())
        differing = [chunk for chunk in range(plan.chunks) if now[chunk] != published[chunk]]
        return list(dict.fromkeys([*moved, *(n for chunk in differing for n in manifest.chunk_tensors(plan, chunk))]))
