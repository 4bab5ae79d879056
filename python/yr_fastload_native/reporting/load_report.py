"""The report of a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from yr_fastload_native.reporting.timeline import Span

__all__ = ["AskedSource", "LoadReport", "Step", "size"]

_MIB, _GIB = 1 << 20, 1 << 30


def size(count: int) -> str:
    """A number of bytes for people: in GiB, or in MiB below one."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.1f} MiB"


@attrs.frozen
class AskedSource:
    """Another process that a load has asked for chunks.

    Attributes:
        source: Host and process.
        chunks: How many came from there.
        left_because: Why it was left.
    """

    source: str
    chunks: int
    left_because: str


@attrs.frozen
class Step:
    """What became of one transport in a load.

    Attributes:
        outcome: ``"loaded"``, ``"partial"``, ``"failed"`` or ``"skipped"``.
        why: Of anything but a plain success.
        bytes: That it brought.
        sources: Whom it asked.
    """

    transport: str
    outcome: str
    why: str | None
    bytes: int = 0
    seconds: float = 0.0
    sources: tuple[AskedSource, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As `LoadReport.steps` has it."""
        return {**attrs.asdict(self), "sources": [attrs.asdict(source) for source in self.sources]}


@attrs.frozen(kw_only=True)
class LoadReport:
    """The outcome of a successful load.

    Attributes:
        bytes: Bytes written to tensors; tied tensors count once.
        seconds: Wall time of the call, excluding joining the lease afterwards.
        transport: ``"d2d"``, ``"staged"`` or ``"host"``: the one that moved the most bytes.
        steps: Attempts, in order: each with ``transport``, ``outcome`` (``"loaded"``, ``"partial"``,
            ``"failed"`` or ``"skipped"``), ``why``, ``bytes``, ``seconds`` and ``sources`` (who was asked, how many
            chunks came from there, why it was abandoned).
        publisher: Host and process of who published the generation first; those that it was asked of are in ``steps``.
        bytes_aliased: The part of these in tensors that use the worker's memory directly (``zero_copy``), not a copy.
        verified: Whether every byte was compared with the publisher's digest.
        chunks_retried: Chunks that were requested again because they were missing or damaged.
        stages: Seconds by stage, summed over threads: ``layout`` (reading and comparing the tensors' layout),
            ``manifest``, ``setup`` (connecting to other sources), ``fetch``, ``copy`` (with its digest), ``digest`` (of
            bytes that are already in place), ``sha256`` (with ``trusted_digests``), ``finish``. Some overlap.
        spans: The same by stage and chunk; `write_trace` draws them.
    """

    bytes: int
    tensors: int
    chunks: int
    seconds: float
    transport: str
    generation: str
    verified: bool
    chunks_retried: int
    stages: Mapping[str, float]
    steps: Sequence[Mapping[str, Any]] = ()
    bytes_aliased: int = 0
    publisher: str = ""
    spans: Sequence[Span] = attrs.field(default=(), repr=False)

    @property
    def gib_per_s(self) -> float:
        return self.bytes / self.seconds / _GIB if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; without the spans."""
        return {**attrs.asdict(self, filter=lambda field, _: field.name != "spans"), "gib_per_s": self.gib_per_s}
