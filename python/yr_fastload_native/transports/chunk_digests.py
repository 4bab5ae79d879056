"""Digests of tensors, where they lie or copied by their device to where the CPU can read them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.catalogue.manifest import Manifest
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["LocalChunks", "of_tensors"]

_TENSOR_BYTES = 1 << 30  # no chunk is larger


@attrs.frozen
class LocalChunks:
    """The chunks of a plan, as they lie in tensors of this process.

    Attributes:
        context: Where the tensors are.
        table: The tensors.
        plan: How they are cut into chunks.
        manifest: Gives the plan's order of tensors, and the digest; None if they are the table's and its device's.
        copy_threads: Of the CPU.
    """

    context: DeviceContext
    table: TensorTable
    plan: _core.Plan
    manifest: Manifest | None
    copy_threads: int

    @property
    def addresses(self) -> array[int]:
        """uint64[tensors of the plan]; of where they lie now."""
        return self.table.addresses if self.manifest is None else self.manifest.addresses(self.table)

    @property
    def digest(self) -> str:
        """Which one, of `_core.digest_names`."""
        return self.context.digest if self.manifest is None else self.manifest.digest

    def digests(
        self,
        deadline_s: float,
        *,
        chunks: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> memoryview:
        """The digest of each chunk.

        Args:
            deadline_s: Bound.
            chunks: Which ones; by default all.
            progress: Called now and then; raises to stop it.

        Raises:
            TransferTimeoutError: Not done in time.
        """
        wanted = array("Q", range(self.plan.chunks) if chunks is None else chunks)
        return _core.digest_chunks(
            self.plan,
            self.addresses,
            copy_threads=self.copy_threads,
            deadline_s=deadline_s,
            chunks=wanted,
            progress=progress,
            device=self.context.device,
            pool=self.context.pool,
            digest=self.digest,
        )


def of_tensors(
    context: DeviceContext, table: TensorTable, copy_threads: int, deadline_s: float
) -> dict[str, tuple[int, ...]]:
    """The digests of each tensor that has memory of its own, by name."""
    plan = _core.make_plan(table.moving, chunk_bytes=_TENSOR_BYTES, max_blobs=1)
    values = LocalChunks(context, table, plan, None, copy_threads).digests(deadline_s)
    found: dict[str, tuple[int, ...]] = {}
    for chunk, value in enumerate(values):
        name = table.names[plan.chunk(chunk)[0].tensor]
        found[name] = (*found.get(name, ()), value)
    return found
