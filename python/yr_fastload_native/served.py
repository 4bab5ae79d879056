"""Tensors that are handed out by reference, and whether they are still what was published."""

from __future__ import annotations

from collections.abc import Set

import attrs

from yr_fastload_native.catalogue import Catalogue, Generation, SupersededError
from yr_fastload_native.deadline import Deadline
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.settle import versions
from yr_fastload_native.tensors import TensorTable
from yr_fastload_native.transports import digests as transport_digests

__all__ = ["Served"]


@attrs.frozen
class Served:
    """What one process hands out of a generation.

    Attributes:
        versions: Of the tensors as they were published; None where they have none.
    """

    catalogue: Catalogue
    generation: Generation
    table: TensorTable
    context: DeviceContext
    copy_threads: int
    versions: list[int] | None

    def marks(self) -> list[int] | None:
        """What tells, at little cost, that a tensor may have changed: its version. None where one has none."""
        return versions(self.table)

    def moved(self) -> list[str]:
        """Names of the tensors that lie elsewhere now."""
        return [
            tensor.name
            for tensor in self.table.tensors
            if tensor.bytes and getattr(tensor.owner, "data_ptr", lambda at=tensor.address: at)() != tensor.address
        ]

    def kept_beside(self, used: Set[int]) -> int:
        """Bytes of storages that are not among those used."""
        kept = {}
        for tensor in self.table.tensors:
            storage = getattr(tensor.owner, "untyped_storage", None)
            if tensor.bytes and storage is not None and storage().data_ptr() not in used:
                kept[storage().data_ptr()] = storage().nbytes()
        return sum(kept.values())

    def changed(self, deadline: Deadline) -> list[str]:
        """Names of the tensors that lie elsewhere now, or share a chunk with bytes that differ from their digest.

        Raises:
            NotPublishedError: The generation is no longer the current one, so there is nothing to compare with.
            TransferTimeoutError: Not done in time.
        """
        manifest, plan = self.generation.manifest, self.generation.manifest.plan()
        addresses = manifest.addresses(self.table)
        moved = self.moved()
        try:
            published = self.catalogue.wait_for_digests(self.generation, deadline, op="check").chunks
        except SupersededError:
            raise NotPublishedError("a newer generation took over", op="check") from None
        now = transport_digests.take(
            self.context, plan, addresses, self.table, manifest, self.copy_threads, deadline.left(), None
        )
        differing = [chunk for chunk in range(plan.chunks) if now[chunk] != published[chunk]]
        return list(dict.fromkeys([*moved, *(n for chunk in differing for n in manifest.chunk_tensors(plan, chunk))]))
