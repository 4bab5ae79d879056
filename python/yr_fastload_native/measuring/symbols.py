"""What a shared library needs of others, read from its file: 64-bit little-endian ELF."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["Needs", "missing", "needs_of"]

_HEADER = struct.Struct("<16s2HI3QI6H")
_SECTION = struct.Struct("<2I4Q2I2Q")
_SYMBOL = struct.Struct("<I2BHQQ")
_ENTRY = struct.Struct("<qQ")  # of the dynamic section
_DYNAMIC, _DYNSYM = 6, 11
_NEEDED = 1
_UNDEFINED = 0
_WEAK = 2


@attrs.frozen
class Needs:
    """What has to be there for a library to be loaded.

    Attributes:
        libraries: By name.
        symbols: That it does not have itself, and cannot do without.
    """

    libraries: list[str]
    symbols: list[str]


def needs_of(path: Path) -> Needs:
    """What a library needs.

    Raises:
        InvalidArgumentError: It is none.
    """
    data = path.read_bytes()
    try:
        return _needs(data)
    except (struct.error, ValueError) as error:
        raise InvalidArgumentError(f"{path} is not a 64-bit ELF library: {error}", op="doctor") from None


def missing(needs: Needs) -> tuple[list[str], list[str]]:
    """Libraries that cannot be loaded here, with the reason, and symbols that those that can have not."""
    loaded, refused = [], []
    for name in needs.libraries:
        try:
            loaded.append(ctypes.CDLL(name))
        except OSError as error:
            refused.append(str(error))
    everything = [ctypes.CDLL(None), *loaded]
    return refused, [symbol for symbol in needs.symbols if not any(hasattr(each, symbol) for each in everything)]


def _needs(data: bytes) -> Needs:
    header = _HEADER.unpack_from(data)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ValueError("it begins with other bytes")
    first, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(data, first + size * i) for i in range(count)]
    libraries, symbols = [], []
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind not in (_DYNAMIC, _DYNSYM):
            continue
        names = sections[link][4]
        if kind == _DYNAMIC:
            entries = _each(_ENTRY, data, offset, length)
            libraries += [_text(data, names + value) for tag, value in entries if tag == _NEEDED]
        else:
            found = _each(_SYMBOL, data, offset, length)
            symbols += [
                _text(data, names + name)
                for name, info, _, section, *_ in found
                if name and section == _UNDEFINED and info >> 4 != _WEAK
            ]
    return Needs(libraries, symbols)


def _each(what: struct.Struct, data: bytes, offset: int, length: int) -> Iterator[tuple[int, ...]]:
    return what.iter_unpack(data[offset : offset + length])


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
