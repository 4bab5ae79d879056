"""The manifest of a generation: its tensors, chunks and digests, and the head that names it.

The plan is a pure function of the tensors' sizes and the limits. A reader computes it itself and accepts only a
manifest that agrees (`manifest_codec`), so no offset, size or key in it is ever trusted.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, overload

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.catalogue.content_digest import digest_of
from yr_fastload_native.catalogue.fields import (
    FORMAT,
    Generation,
    Hex64,
    Index,
    Name,
    Sha256,
    Sha256OrNone,
    Shape,
    Size,
    Stored,
)
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import IntegrityError, LayoutMismatchError
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = [
    "DIGESTS",
    "ChunkEntry",
    "Entries",
    "Frame",
    "Head",
    "Manifest",
    "Taken",
    "TensorEntry",
    "build_manifest",
    "chunks_of",
    "entries_of",
]

DIGESTS = tuple(_core.digest_names())


class TensorEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A tensor, with the chunk and offset of its first blob; -1 and 0 if it does not move (empty, or an alias)."""

    name: Name
    dtype: Name
    shape: Shape
    strides: Shape
    bytes: Size
    chunk: Index
    offset: Size
    alias: tuple[Name, Size] | None


class Entries(Sequence[TensorEntry]):
    """The entries of a manifest as they are written there, parsed when somebody looks at them.

    Who publishes or loads tens of thousands of tensors has them in a table, and needs none of these objects.

    Attributes:
        encoded: The JSON.
    """

    def __init__(self, encoded: bytes, count: int) -> None:
        self.encoded = encoded
        self._count = count

    @functools.cached_property
    def _parsed(self) -> list[TensorEntry]:
        return msgspec.json.decode(self.encoded, type=list[TensorEntry])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> TensorEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[TensorEntry]: ...
    def __getitem__(self, index: int | slice) -> TensorEntry | list[TensorEntry]:
        return self._parsed[index]

    def __iter__(self) -> Iterator[TensorEntry]:
        return iter(self._parsed)

    def __eq__(self, other: object) -> bool:
        return self._parsed == list(other) if isinstance(other, Sequence) else NotImplemented


class ChunkEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    key: Name
    bytes: Size
    blobs: Size
    digest: Hex64 | None


class Taken(NamedTuple):
    """A generation's digests: one per chunk, and the SHA-256 of each tensor if the publisher computed it.

    The SHA-256 of a tensor that does not move is empty.
    """

    chunks: array[int]
    sha256: list[str] | None


class Frame(Stored, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of a manifest besides its tensors."""

    digest: str
    identity: dict[str, Any]
    generation: Generation
    chunk_bytes: Size
    max_blobs: Size
    chunks: list[ChunkEntry]
    publisher: str
    published_unix_s: float
    sha256: list[Sha256OrNone] | None = None


class Manifest(Frame, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    tensors: Sequence[TensorEntry]

    @property
    def limits(self) -> tuple[int, int]:
        """Those of its plan: ``chunk_bytes`` and ``max_blobs``."""
        return self.chunk_bytes, self.max_blobs

    def is_cut_as(self, names: Iterable[str], limits: tuple[int, int], digest: str) -> bool:
        """Whether tensors in this order, under these limits, have its chunks, and digests to be compared with its."""
        return (self.limits, self.digest) == (limits, digest) and [each.name for each in self.tensors] == list(names)

    def plan(self) -> _core.Plan:
        """The plan that follows from its tensors and limits."""
        sizes = array("Q", [0 if tensor.alias else tensor.bytes for tensor in self.tensors])
        return _core.make_plan(sizes, chunk_bytes=self.chunk_bytes, max_blobs=self.max_blobs)

    def digests(self) -> Taken | None:
        """The digests; None if they are in a separate object."""
        values = [chunk.digest for chunk in self.chunks if chunk.digest is not None]
        if len(values) < len(self.chunks):
            return None
        return Taken(array("Q", [int(value, 16) for value in values]), self.sha256)

    def check_sums(self, sha256: list[str] | None, *, op: str) -> None:
        """Check that a list of SHA-256 sums, if there is one, is of these tensors.

        Raises:
            IntegrityError: It is not.
        """
        if sha256 is not None and [bool(of_bytes) for of_bytes in sha256] != [each.chunk >= 0 for each in self.tensors]:
            raise IntegrityError("the list of SHA-256 sums does not have one for each tensor that moves", op=op)

    def content_digest(self, identity: Identity, sha256: list[str]) -> str:
        """The content digest of these tensors, given their SHA-256 sums."""
        return digest_of(identity, self.tensors, [tensor.alias for tensor in self.tensors], sha256)

    def chunk_tensors(self, plan: _core.Plan, chunk: int) -> list[str]:
        """Names of the tensors that have bytes in a chunk."""
        return list(dict.fromkeys(self.tensors[blob.tensor].name for blob in plan.chunk(chunk)))

    def check_layout(self, table: TensorTable, *, op: str) -> None:
        """Compare every name, dtype, shape, stride, size and alias with this process's tensors.

        Raises:
            LayoutMismatchError: They differ; the message shows the first differences.
        """
        published = {tensor.name: tensor for tensor in self.tensors}
        wrong: dict[str, str] = {}
        for name in sorted(published.keys() - table.index.keys()):
            wrong[name] = "is published but not wanted"
        for name in sorted(table.index.keys() - published.keys()):
            wrong[name] = "is wanted but not published"
        for index, mine in enumerate(table.tensors):
            theirs = published.get(mine.name)
            if theirs is None:
                continue
            has = (mine.dtype, mine.shape, mine.strides, mine.bytes, table.alias(index))
            wants = (theirs.dtype, theirs.shape, theirs.strides, theirs.bytes, theirs.alias)
            if has != wants:
                wrong[mine.name] = _difference(wants, has)
        if wrong:
            shown = "; ".join(f"{name!r} {why}" for name, why in list(wrong.items())[:3])
            more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise LayoutMismatchError(
                f"{len(wrong)} of {len(table.tensors)} tensors differ from the published ones: {shown}{more}",
                op=op,
                failed_keys=list(wrong),
            )

    def places_in(self, table: TensorTable) -> Sequence[int]:
        """Where a table has each of the tensors, after `check_layout`."""
        return [table.index[tensor.name] for tensor in self.tensors]

    def addresses(self, table: TensorTable) -> array[int]:
        """Addresses of this process's tensors in the manifest's order, after `check_layout`."""
        return array("Q", [table.addresses[place] for place in self.places_in(table)])


class Head(Stored, frozen=True, forbid_unknown_fields=True):
    """Names the current generation of an identity, and pins its manifest."""

    generation: Generation
    manifest_bytes: Size
    manifest_sha256: Sha256
    transports: Annotated[list[Name], msgspec.Meta(max_length=16)]


def _difference(published: tuple[Any, ...], mine: tuple[Any, ...]) -> str:
    fields = ("dtype", "shape", "strides", "bytes", "alias")
    parts = [f"{field} {a} published, {b} here" for field, a, b in zip(fields, published, mine, strict=True) if a != b]
    return "has " + ", ".join(parts)


def entries_of(table: TensorTable, plan: _core.Plan) -> Entries:
    """The manifest's entries for the tensors of a table."""
    layouts = [msgspec.json.encode(layout[:4])[1:-1] for layout in table.layouts]
    encoded = _core.encode_entries(
        table.names, layouts, table.layout_of, plan, table.owner, table.offset, quote=msgspec.json.encode
    )
    return Entries(encoded, len(table.names))


def chunks_of(identity: Identity, generation: str, plan: _core.Plan) -> list[tuple[str, int, int]]:
    """Key, bytes and number of blobs of each chunk."""
    keys = _core.chunk_keys(identity.chunk_prefix(generation), plan.chunks)
    chunk_bytes, first_blob = plan.chunk_bytes, plan.first_blob
    return [(key, chunk_bytes[i], first_blob[i + 1] - first_blob[i]) for i, key in enumerate(keys)]


def build_manifest(
    identity: Identity,
    generation: str,
    table: TensorTable,
    plan: _core.Plan,
    digests: memoryview | None,
    limits: tuple[int, int],
    sha256: list[str] | None = None,
    *,
    digest: str = DIGESTS[0],
) -> Manifest:
    """Describe tensors that were published under a plan made with ``limits`` (chunk_bytes, max_blobs).

    Args:
        identity: Of the weights.
        generation: Name of the generation.
        table: The tensors.
        plan: The plan of their chunks.
        digests: One per chunk; None if they follow later.
        limits: The limits of the plan.
        sha256: One per tensor; None if not requested, or if they follow later.
        digest: Which one they are, of `_core.digest_names`.
    """
    chunks = [
        ChunkEntry(*chunk, None if digests is None else f"{digests[i]:016x}")
        for i, chunk in enumerate(chunks_of(identity, generation, plan))
    ]
    return Manifest(
        FORMAT,
        digest,
        identity.fields,
        generation,
        *limits,
        chunks,
        f"{socket.gethostname()}:{os.getpid()}",
        time.time(),
        sha256,
        tensors=entries_of(table, plan),
    )
