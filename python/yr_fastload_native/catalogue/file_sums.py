"""The sums of the files that published weights were read from: an object beside their manifest."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from yr_fastload_native.catalogue.fields import FORMAT, Generation, Name, Sha256, Stored, decode
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, ResourceExhaustedError

__all__ = ["check_files", "decode_files", "encode_files"]


class Files(Stored, frozen=True, forbid_unknown_fields=True):
    """The SHA-256 sums that the publisher knows of the files that it read its weights from."""

    generation: Generation
    files: dict[Name, Sha256]


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
    files = decode(data, Files, "the list of files", op)
    if files.generation != generation:
        raise IntegrityError("the list of files belongs to another generation", op=op)
    return files.files
