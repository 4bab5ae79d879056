"""A manifest as bytes and back. Parsed as hostile input: one that this package could not have written is refused."""

from __future__ import annotations

import hashlib
import weakref
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from yr_fastload_native import _core
from yr_fastload_native.catalogue.fields import FORMAT, Stored, decode
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import DIGESTS, Entries, Frame, Head, Manifest, chunks_of, entries_of
from yr_fastload_native.errors import FastLoadError, IntegrityError, InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["decode_head", "decode_manifest", "encode_manifest", "identity_in"]


_TENSORS = b',"tensors":'  # before the last field of a manifest, as it is written


class _Whose(Stored, frozen=True):
    """Only the identity in a manifest."""

    identity: dict[str, Any]


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

    def places_in(self, table: TensorTable) -> Sequence[int]:
        return range(len(self.tensors)) if self._is_of(table) else super().places_in(table)

    def addresses(self, table: TensorTable) -> array[int]:
        return table.addresses[:] if self._is_of(table) else super().addresses(table)


def encode_manifest(manifest: Manifest, *, max_bytes: int, transports: list[str]) -> tuple[bytes, bytes]:
    """Encode a manifest, and the head that pins it.

    Raises:
        ResourceExhaustedError: It is larger than ``max_bytes``.
    """
    data = msgspec.json.encode(manifest, enc_hook=_as_written)
    if len(data) > max_bytes:
        raise ResourceExhaustedError(
            f"the manifest has {len(data)} bytes, more than max_manifest_bytes={max_bytes}", op="publish"
        )
    head = Head(FORMAT, manifest.generation, len(data), hashlib.sha256(data).hexdigest(), transports)
    return data, msgspec.json.encode(head)


def _as_written(entries: Any) -> msgspec.Raw:
    if not isinstance(entries, Entries):
        raise NotImplementedError(f"a manifest holds no {type(entries).__name__}")
    return msgspec.Raw(entries.encoded)


def decode_head(data: bytes, *, op: str) -> Head:
    """Parse a head.

    Raises:
        IntegrityError: It is damaged or has another format version.
    """
    return decode(data, Head, "the head", op)


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
        who = Identity.of(decode(data, _Whose, "the manifest", op).identity, op=op)
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
    recognised = None if mine is None else _recognise(data, mine, op)
    if recognised is not None:
        _check_frame(recognised, head, identity, op)
        return recognised
    manifest = decode(data, Manifest, "the manifest", op)
    if len(manifest.tensors) > max_tensors:
        raise ResourceExhaustedError(f"the manifest has more than max_tensors={max_tensors} tensors", op=op)
    _check_tensors(manifest, _check_frame(manifest, head, identity, op), op)
    return manifest


def _recognise(data: bytes, table: TensorTable, op: str) -> Manifest | None:
    """The manifest, if its tensors are what this process would write for a table; None if not."""
    cut = data.find(_TENSORS)
    if cut < 0:
        return None
    try:
        # What is an object up to here was not cut within a text or a part; and what follows is compared as a whole.
        frame = decode(data[:cut] + b"}", Frame, "the manifest", op)
        plan = _core.make_plan(table.moving, chunk_bytes=frame.chunk_bytes, max_blobs=frame.max_blobs)
    except FastLoadError:
        return None
    entries = entries_of(table, plan)
    if len(data) != cut + len(_TENSORS) + len(entries.encoded) + 1 or not data.endswith(b"}"):
        return None
    if not data.startswith(entries.encoded, cut + len(_TENSORS)):
        return None
    fields = {name: getattr(frame, name) for name in Frame.__struct_fields__}
    manifest = _Recognised(**fields, tensors=entries)
    manifest.__dict__.update(mine=weakref.ref(table), planned=plan)
    return manifest


def _refuse(why: str, op: str) -> IntegrityError:
    return IntegrityError(f"the manifest contradicts itself: {why}", op=op)


def _check_frame(manifest: Manifest, head: Head, identity: Identity, op: str) -> _core.Plan:
    """Check everything except the tensors' entries. Returns the plan that follows from them."""
    if manifest.digest not in DIGESTS:
        known = " and ".join(map(repr, DIGESTS))
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
    planned = chunks_of(identity, manifest.generation, plan)
    if planned != [(chunk.key, chunk.bytes, chunk.blobs) for chunk in manifest.chunks]:
        raise _refuse("its chunks are not those that its tensors give", op)
    manifest.check_sums(manifest.sha256, op=op)
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
