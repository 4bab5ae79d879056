"""What the objects of a store have in common: their fields' bounds, and how one is parsed, as hostile input."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.weights.tensor_table import MAX_NAME_CHARS

__all__ = [
    "FORMAT",
    "Generation",
    "Hex64",
    "Index",
    "Name",
    "Sha256",
    "Sha256OrNone",
    "Shape",
    "Size",
    "Stored",
    "decode",
]

FORMAT = 1

Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Index = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 32) - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARS)]
Shape = Annotated[tuple[Size, ...], msgspec.Meta(max_length=64)]
Hex64 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Sha256OrNone = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Generation = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,64}\Z")]


class Stored(msgspec.Struct, frozen=True):
    """An object of a store."""

    format: int


_Object = TypeVar("_Object", bound=Stored)


def decode(data: bytes, kind: type[_Object], what: str, op: str) -> _Object:
    """Parse an object; ``what`` it is, for errors.

    Raises:
        IntegrityError: It is damaged or has another format version.
    """
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{what} is not valid: {error}", op=op) from None
    if value.format != FORMAT:
        raise IntegrityError(f"{what} has format {value.format}; this version reads format {FORMAT}", op=op)
    return value
