"""Digests that follow a manifest: an object beside that of a publication by reference, which is announced first."""

from __future__ import annotations

from array import array

import msgspec

from yr_fastload_native.catalogue.fields import FORMAT, Generation, Hex64, Sha256OrNone, Stored, decode
from yr_fastload_native.catalogue.manifest import Manifest, Taken
from yr_fastload_native.errors import IntegrityError

__all__ = ["decode_digests", "encode_digests"]


class Digests(Stored, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Digests that the publisher computed after it had announced the generation."""

    digest: str
    generation: Generation
    chunks: list[Hex64]
    sha256: list[Sha256OrNone] | None = None


def encode_digests(manifest: Manifest, digests: memoryview, sha256: list[str] | None) -> bytes:
    values = [f"{value:016x}" for value in digests]
    return msgspec.json.encode(Digests(FORMAT, manifest.digest, manifest.generation, values, sha256))


def decode_digests(data: bytes, manifest: Manifest, *, op: str) -> Taken:
    """Parse the digests that belong to a manifest.

    Raises:
        IntegrityError: They are damaged, or of another generation or format.
    """
    digests = decode(data, Digests, "the list of digests", op)
    mine = (manifest.digest, manifest.generation, len(manifest.chunks))
    if (digests.digest, digests.generation, len(digests.chunks)) != mine:
        raise IntegrityError("the list of digests belongs to another generation or format", op=op)
    manifest.check_sums(digests.sha256, op=op)
    return Taken(array("Q", [int(value, 16) for value in digests.chunks]), digests.sha256)
