"""The manifest of a generation: its tensors, chunks and digests. Parsed as hostile input.

The plan is a pure function of the tensors' sizes and the limits. A reader computes it itself and accepts only a
manifest that agrees, so no offset, size or key in it is ever trusted.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import weakref
from array import array
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.catalogue.content_digest import digest_of
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import (
    FastLoadError,
    IntegrityError,
    InvalidArgumentError,
    LayoutMismatchError,
    ResourceExhaustedError,
)
from yr_fastload_native.weights.tensor_table import MAX_NAME_CHARS, TensorTable

__all__ = [
    "FORMAT",
    "Head",
    "Manifest",
    "Taken",
    "build_manifest",
    "check_files",
    "decode_digests",
    "decode_files",
    "decode_head",
    "decode_manifest",
    "encode_digests",
    "encode_files",
    "encode_manifest",
    "identity_in",
]

FORMAT = 1
_DIGESTS = tuple(_core.digest_names())

_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Index = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 32) - 1)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
_Shape = Annotated[tuple[_Size, ...], msgspec.Meta(max_length=64)]
_Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_Generation = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,64}\Z")]


class TensorEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A tensor, with the chunk and offset of its first blob; -1 and 0 if it does not move (empty, or an alias)."""

    name: _Name
    dtype: _Name
    shape: _Shape
    strides: _Shape
    bytes: _Size
    chunk: _Index
    offset: _Size
    alias: tuple[_Name, _Size] | None


class ChunkEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    key: _Name
    bytes: _Size
    blobs: _Size
    digest: _Hex64 | None


class Digests(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Digests that the publisher computed after it had announced the generation."""

    format: int
    digest: str
    generation: _Generation
    chunks: list[_Hex64]
    sha256: list[_Sha256] | None = None


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The SHA-256 sums that the publisher knows of the files that it read its weights from."""

    format: int
    generation: _Generation
    files: dict[_Name, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]]


class Taken(NamedTuple):
    """A generation's digests: one per chunk, and the SHA-256 of each tensor if the publisher computed it.

    The SHA-256 of a tensor that does not move is empty.
    """

    chunks: array[int]
    sha256: list[str] | None


class _Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of a manifest besides its tensors."""

    format: int
    digest: str
    identity: dict[str, Any]
    generation: _Generation
    chunk_bytes: _Size
    max_blobs: _Size
    chunks: list[ChunkEntry]
    publisher: str
    published_unix_s: float
    sha256: list[_Sha256] | None = None


class _Sealed(_Frame, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A manifest whose tensors have not been parsed."""

    tensors: msgspec.Raw


class _Whose(msgspec.Struct, frozen=True):
    """Only the identity in a manifest."""

    format: int
    identity: dict[str, Any]


class Manifest(_Frame, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    tensors: list[TensorEntry]

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

    def addresses(self, table: TensorTable) -> array[int]:
        """Addresses of this process's tensors in the manifest's order, after `check_layout`."""
        return array("Q", [table.addresses[table.index[tensor.name]] for tensor in self.tensors])


class _Recognised(Manifest, frozen=True, kw_only=True, dict=True):
    """A manifest whose tensors are byte for byte what this process would write of its own.

    So the tensors agree without being parsed, which for tens of thousands of them saves most of the time.
    """

    def plan(self) -> _core.Plan:
        """As they were recognised by it; immutable."""
        plan: _core.Plan = self.__dict__["planned"]
        return plan

    def _is_of(self, table: TensorTable) -> bool:
        mine: weakref.ref[TensorTable] = self.__dict__["mine"]
        return mine() is table

    def check_layout(self, table: TensorTable, *, op: str) -> None:
        if not self._is_of(table):
            super().check_layout(table, op=op)

    def addresses(self, table: TensorTable) -> array[int]:
        return table.addresses[:] if self._is_of(table) else super().addresses(table)


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names the current generation of an identity, and pins its manifest."""

    format: int
    generation: _Generation
    manifest_bytes: _Size
    manifest_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    transports: Annotated[list[_Name], msgspec.Meta(max_length=16)]


def _difference(published: tuple[Any, ...], mine: tuple[Any, ...]) -> str:
    fields = ("dtype", "shape", "strides", "bytes", "alias")
    parts = [f"{field} {a} published, {b} here" for field, a, b in zip(fields, published, mine, strict=True) if a != b]
    return "has " + ", ".join(parts)


def _entries(table: TensorTable, plan: _core.Plan) -> list[TensorEntry]:
    """The manifest's entries for the tensors of a table."""
    names = [tensor.name for tensor in table.tensors]
    return [
        TensorEntry(
            tensor.name,
            tensor.dtype,
            tensor.shape,
            tensor.strides,
            tensor.bytes,
            chunk,
            offset,
            None if owner == index else (names[owner], start),
        )
        for index, (tensor, chunk, offset, owner, start) in enumerate(
            zip(table.tensors, *plan.places(), table.owner, table.offset, strict=True)
        )
    ]


def _chunks(identity: Identity, generation: str, plan: _core.Plan) -> list[tuple[str, int, int]]:
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
    digest: str = _DIGESTS[0],
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
        for i, chunk in enumerate(_chunks(identity, generation, plan))
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
        tensors=_entries(table, plan),
    )


def encode_manifest(manifest: Manifest, *, max_bytes: int, transports: list[str]) -> tuple[bytes, bytes]:
    """Encode a manifest, and the head that pins it.

    Raises:
        ResourceExhaustedError: It is larger than ``max_bytes``.
    """
    data = msgspec.json.encode(manifest)
    if len(data) > max_bytes:
        raise ResourceExhaustedError(
            f"the manifest has {len(data)} bytes, more than max_manifest_bytes={max_bytes}", op="publish"
        )
    head = Head(FORMAT, manifest.generation, len(data), hashlib.sha256(data).hexdigest(), transports)
    return data, msgspec.json.encode(head)


def _decode(data: bytes, kind: type[Any], what: str, op: str) -> Any:
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{what} is not valid: {error}", op=op) from None
    if value.format != FORMAT:
        raise IntegrityError(f"{what} has format {value.format}; this version reads format {FORMAT}", op=op)
    return value


def decode_head(data: bytes, *, op: str) -> Head:
    """Parse a head.

    Raises:
        IntegrityError: It is damaged or has another format version.
    """
    head = _decode(data, Head, "the head", op)
    assert isinstance(head, Head)
    return head


def _check_pin(data: bytes, head: Head, max_bytes: int, op: str) -> None:
    """Refuse data that is too large or not the manifest that a head names."""
    if len(data) > max_bytes:
        raise ResourceExhaustedError(
            f"the manifest has {len(data)} bytes, more than max_manifest_bytes={max_bytes}", op=op
        )
    if len(data) != head.manifest_bytes or hashlib.sha256(data).hexdigest() != head.manifest_sha256:
        raise IntegrityError(
            f"the manifest ({len(data)} bytes) is not the one that the head names ({head.manifest_bytes} bytes)", op=op
        )


def identity_in(data: bytes, head: Head, digest: str, *, max_bytes: int, op: str) -> Identity:
    """The identity in the manifest that a head pins, checked against its known digest.

    Raises:
        IntegrityError: It is not valid, or belongs to another identity.
        ResourceExhaustedError: It is beyond a bound.
    """
    _check_pin(data, head, max_bytes, op)
    try:
        who = Identity.of(_decode(data, _Whose, "the manifest", op).identity, op=op)
    except InvalidArgumentError as error:
        raise IntegrityError(f"the manifest is not valid: {error}", op=op) from None
    if who.digest != digest:
        raise IntegrityError("the manifest belongs to another identity", op=op)
    return who


def decode_manifest(
    data: bytes,
    head: Head,
    identity: Identity,
    *,
    max_bytes: int,
    max_tensors: int,
    op: str,
    mine: TensorTable | None = None,
) -> Manifest:
    """Parse the manifest that a head pins, and check that this package could have written it.

    Args:
        data: The manifest.
        head: The head that pins it.
        identity: The identity that it must belong to.
        max_bytes: Size limit.
        max_tensors: Limit for the number of tensors.
        op: For errors.
        mine: Tensors that are probably the same, which then need not be parsed.

    Raises:
        IntegrityError: It is damaged, has another format version or identity, or contradicts itself.
        ResourceExhaustedError: It is beyond a bound.
    """
    _check_pin(data, head, max_bytes, op)
    recognised = None if mine is None else _recognise(_decode(data, _Sealed, "the manifest", op), mine)
    if recognised is not None:
        _check_frame(recognised, head, identity, op)
        return recognised
    manifest = _decode(data, Manifest, "the manifest", op)
    assert isinstance(manifest, Manifest)
    if len(manifest.tensors) > max_tensors:
        raise ResourceExhaustedError(f"the manifest has more than max_tensors={max_tensors} tensors", op=op)
    _check_tensors(manifest, _check_frame(manifest, head, identity, op), op)
    return manifest


def _recognise(sealed: _Sealed, table: TensorTable) -> Manifest | None:
    """The manifest, if its tensors are what this process would write for a table; None if not."""
    try:
        plan = _core.make_plan(table.moving, chunk_bytes=sealed.chunk_bytes, max_blobs=sealed.max_blobs)
    except FastLoadError:
        return None
    entries = _entries(table, plan)
    if msgspec.json.encode(entries) != bytes(sealed.tensors):
        return None
    fields = {name: getattr(sealed, name) for name in _Frame.__struct_fields__}
    manifest = _Recognised(**fields, tensors=entries)
    manifest.__dict__.update(mine=weakref.ref(table), planned=plan)
    return manifest


def encode_digests(manifest: Manifest, digests: memoryview, sha256: list[str] | None) -> bytes:
    values = [f"{value:016x}" for value in digests]
    return msgspec.json.encode(Digests(FORMAT, manifest.digest, manifest.generation, values, sha256))


def decode_digests(data: bytes, manifest: Manifest, *, op: str) -> Taken:
    """Parse the digests that belong to a manifest.

    Raises:
        IntegrityError: They are damaged, or of another generation or format.
    """
    digests = _decode(data, Digests, "the list of digests", op)
    assert isinstance(digests, Digests)
    mine = (manifest.digest, manifest.generation, len(manifest.chunks))
    if (digests.digest, digests.generation, len(digests.chunks)) != mine:
        raise IntegrityError("the list of digests belongs to another generation or format", op=op)
    _check_sums(manifest, digests.sha256, op)
    return Taken(array("Q", [int(value, 16) for value in digests.chunks]), digests.sha256)


def check_files(files: Mapping[str, str], *, op: str) -> dict[str, str]:
    """Check the sums of files before they are published.

    Raises:
        InvalidArgumentError: A name or a sum is invalid.
    """
    try:
        return msgspec.convert({"format": FORMAT, "generation": "0" * 8, "files": dict(files)}, Files).files
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"files is not a mapping of names to SHA-256 sums: {error}", op=op) from None


def encode_files(generation: str, files: dict[str, str]) -> bytes:
    return msgspec.json.encode(Files(FORMAT, generation, files))


def decode_files(data: bytes, generation: str, *, max_bytes: int, op: str) -> dict[str, str]:
    """Parse the sums that belong to a generation.

    Raises:
        IntegrityError: They are damaged, or of another generation or format.
        ResourceExhaustedError: There are too many.
    """
    if len(data) > max_bytes:
        raise ResourceExhaustedError(
            f"the list of file sums has {len(data)} bytes, more than max_manifest_bytes={max_bytes}", op=op
        )
    files = _decode(data, Files, "the list of files", op)
    assert isinstance(files, Files)
    if files.generation != generation:
        raise IntegrityError("the list of files belongs to another generation", op=op)
    return files.files


def _check_sums(manifest: Manifest, sha256: list[str] | None, op: str) -> None:
    moves = [tensor.chunk >= 0 for tensor in manifest.tensors]
    if sha256 is not None and [bool(of_bytes) for of_bytes in sha256] != moves:
        raise IntegrityError("the list of SHA-256 sums does not have one for each tensor that moves", op=op)


def _refuse(why: str, op: str) -> IntegrityError:
    return IntegrityError(f"the manifest contradicts itself: {why}", op=op)


def _check_frame(manifest: Manifest, head: Head, identity: Identity, op: str) -> _core.Plan:
    """Check everything except the tensors' entries. Returns the plan that follows from them."""
    if manifest.digest not in _DIGESTS:
        known = " and ".join(map(repr, _DIGESTS))
        raise IntegrityError(f"the manifest uses digest {manifest.digest!r}; this version supports {known}", op=op)
    if not identity.is_of(manifest.identity) or manifest.generation != head.generation:
        raise _refuse("it belongs to another identity or generation", op)
    if len({chunk.digest is None for chunk in manifest.chunks}) > 1:
        raise _refuse("some of its chunks have a digest and some have none", op)
    if manifest.sha256 is not None and manifest.digests() is None:
        raise _refuse("its sums are here and its digests are not", op)
    try:
        plan = manifest.plan()
    except FastLoadError as error:
        raise _refuse(str(error), op) from None
    if plan.chunks != len(manifest.chunks):  # before anything is created for each
        raise _refuse(f"it has {len(manifest.chunks)} chunks, and its tensors give {plan.chunks}", op)
    planned = _chunks(identity, manifest.generation, plan)
    if planned != [(chunk.key, chunk.bytes, chunk.blobs) for chunk in manifest.chunks]:
        raise _refuse("its chunks are not those that its tensors give", op)
    _check_sums(manifest, manifest.sha256, op)
    return plan


def _check_tensors(manifest: Manifest, plan: _core.Plan, op: str) -> None:
    tensors = {tensor.name: tensor for tensor in manifest.tensors}
    if len(tensors) != len(manifest.tensors):
        raise _refuse("two tensors have one name", op)
    for tensor, *place in zip(manifest.tensors, *plan.places(), strict=True):
        if [tensor.chunk, tensor.offset] != place:
            raise _refuse(f"tensor {tensor.name!r} is not at offset {tensor.offset} of chunk {tensor.chunk}", op)
        if tensor.alias is not None:
            owner = tensors.get(tensor.alias[0])
            if owner is None or owner.alias is not None or tensor.alias[1] + tensor.bytes > owner.bytes:
                raise _refuse(f"tensor {tensor.name!r} does not lie in {tensor.alias[0]!r}", op)
