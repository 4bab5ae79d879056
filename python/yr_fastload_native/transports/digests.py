"""Digests of tensors where they lie: by the CPU if it can see them, by their device if it cannot."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

from yr_fastload_native import _core
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.manifest import Manifest
from yr_fastload_native.tensors import TensorTable

__all__ = ["of_chunks", "of_tensors", "take"]

_TENSOR_BYTES = 1 << 30  # no chunk is larger


def take(
    context: DeviceContext,
    plan: _core.Plan,
    addresses: array[int],
    table: TensorTable,
    manifest: Manifest | None,
    copy_threads: int,
    deadline_s: float,
    progress: Callable[[int, int], None] | None,
) -> memoryview:
    """The digest of every chunk of a plan over the tensors of a table.

    Args:
        context: Where they are.
        plan: How they are cut into chunks.
        addresses: In the plan's order.
        table: The tensors.
        manifest: Gives the plan's order of tensors; None if it is the table's.
        copy_threads: Of the CPU.
        deadline_s: Bound, where the CPU does it.
        progress: Called now and then; raises to stop it.
    """
    if context.device.cpu_accessible:
        return _core.digest_chunks(plan, addresses, copy_threads=copy_threads, deadline_s=deadline_s, progress=progress)
    values = of_chunks(context, plan, table, manifest, range(plan.chunks))
    return memoryview(array("Q", values))


def of_tensors(
    context: DeviceContext, table: TensorTable, copy_threads: int, deadline_s: float
) -> dict[str, tuple[int, ...]]:
    """The digests of each tensor that has memory of its own, by name."""
    plan = _core.make_plan(table.moving, chunk_bytes=_TENSOR_BYTES, max_blobs=1)
    values = take(context, plan, table.addresses, table, None, copy_threads, deadline_s, None)
    found: dict[str, tuple[int, ...]] = {}
    for chunk, value in enumerate(values):
        name = table.tensors[plan.chunk(chunk)[0].tensor].name
        found[name] = (*found.get(name, ()), value)
    return found


def of_chunks(
    context: DeviceContext, plan: _core.Plan, table: TensorTable, manifest: Manifest | None, chunks: Iterable[int]
) -> list[int]:
    """The digests of some chunks, taken by the tensors' device."""
    ordered = (
        table.tensors if manifest is None else [table.tensors[table.index[tensor.name]] for tensor in manifest.tensors]
    )
    return context.kind.chunk_digests(plan, [tensor.owner for tensor in ordered], chunks)
