"""A set of files as two tensors: an index of names, modes, sizes and SHA-256 sums, and the bytes of all files.

Both are parsed as hostile input.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import msgspec

from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.files.makers import Makers, prove

__all__ = [
    "CONTENTS",
    "INDEX",
    "MOST_FILES",
    "MOST_INDEX_BYTES",
    "File",
    "check_name",
    "decode",
    "encode",
    "read_files",
]

INDEX, CONTENTS = "index", "contents"  # names of the tensors
MOST_FILES = 20_000
MOST_INDEX_BYTES = 16 << 20
_FORMAT = 1
_MOST_NAME_CHARS, _MOST_PART_BYTES, _MOST_PARTS = 1024, 255, 32
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Entry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=_MOST_NAME_CHARS)]
    mode: Annotated[int, msgspec.Meta(ge=0, le=0o777)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: _Sha256


class _Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As JSON.

    Attributes:
        proof: Who made it, from `prove`; empty: that is not proven.
    """

    format: int
    files: Annotated[list[_Entry], msgspec.Meta(max_length=MOST_FILES)]
    proof: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


@attrs.frozen
class File:
    """One file of a set.

    Attributes:
        name: Where it belongs, relative, parts joined by ``/``.
        mode: Its permissions. Of a file that was read: 0o700 if its user may execute it, else 0o600, as it is put in
            place elsewhere; who publishes it from there publishes the same set.
        data: Its bytes.
    """

    name: str
    mode: int
    data: bytes | memoryview = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)


def check_name(name: str, *, op: str) -> tuple[str, ...]:
    """The parts of a relative name.

    Raises:
        IntegrityError: It is absolute, leads upwards, or is none that a file has here.
    """
    parts = tuple(name.split("/"))
    fits = len(name) <= _MOST_NAME_CHARS and len(parts) <= _MOST_PARTS and name.isprintable()
    if not fits or any(part in ("", ".", "..") or len(os.fsencode(part)) > _MOST_PART_BYTES for part in parts):
        raise IntegrityError(f"{name[:80]!r} is no relative name of a file", op=op, failed_keys=[name])
    return parts


def read_files(paths: Mapping[str, Path], *, most_bytes: int, op: str) -> list[File]:
    """Read files as they are now, in the order of their names.

    Args:
        paths: By the name in the set.
        most_bytes: Bound for all of them.
        op: For errors.

    Raises:
        InvalidArgumentError: One is not a regular file, cannot be read, or changed meanwhile.
        ResourceExhaustedError: There are too many, or they are too large.
    """
    if len(paths) > MOST_FILES:
        raise ResourceExhaustedError(f"{len(paths)} files are more than the {MOST_FILES} of a set", op=op)
    found: list[File] = []
    left = most_bytes
    for name, path in sorted(paths.items()):
        check_name(name, op=op)
        found.append(_read(name, path, left, op))
        left -= found[-1].size
    return found


def _read(name: str, path: Path, most_bytes: int, op: str) -> File:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            before = FileState.of(descriptor)
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise InvalidArgumentError(f"{path} is not a regular file", op=op, failed_keys=[str(path)])
            if before.size > most_bytes:
                raise ResourceExhaustedError(
                    f"{path}: no room for its {before.size} bytes within the bound of a set", op=op
                )
            data = file.read(before.size)
            if len(data) != before.size or FileState.of(descriptor) != before:
                raise InvalidArgumentError(f"{path} changed while it was read", op=op, failed_keys=[str(path)])
    except OSError as error:
        raise InvalidArgumentError(
            f"{path} cannot be read: {error.strerror}", op=op, failed_keys=[str(path)]
        ) from error
    return File(name, 0o600 | mode & stat.S_IXUSR, data)


def encode(files: Sequence[File], whose: str, key: bytes | None) -> dict[str, bytes]:
    """A set as tensors.

    Args:
        files: Of the set.
        whose: Digest of the identity under which it is published.
        key: With which its maker is proven, from `own_key`; None: not at all.
    """
    entries = [_Entry(each.name, each.mode, each.size, _sum(each.data)) for each in files]
    proof = "" if key is None else prove(key, _proven(whose, entries))
    return {
        INDEX: msgspec.json.encode(_Index(_FORMAT, entries, proof)),
        CONTENTS: b"".join(each.data for each in files),
    }


def decode(tensors: Mapping[str, Any], whose: str, makers: Makers, *, op: str) -> list[File]:
    """The files of a set, each compared with its sum.

    Args:
        tensors: What has arrived, by name.
        whose: Digest of the identity under which it is published.
        makers: Whose files are taken.
        op: For errors.

    Raises:
        IntegrityError: It is damaged, of another format, names what is no file's name, or its maker is none of these.
    """
    try:
        index = msgspec.json.decode(bytes(tensors[INDEX]), type=_Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the index of the files is damaged: {error}", op=op) from None
    if index.format != _FORMAT:
        raise IntegrityError(f"the index of the files has format {index.format}, not {_FORMAT}", op=op)
    makers.check(index.proof, _proven(whose, index.files), op=op)
    return _cut(index.files, memoryview(tensors[CONTENTS]), op)


def _cut(entries: Sequence[_Entry], contents: memoryview, op: str) -> list[File]:
    if sum(each.size for each in entries) != len(contents):
        raise IntegrityError("the files are not as large as their index says", op=op)
    parts = [check_name(each.name, op=op) for each in entries]
    known = {each[:length] for each in parts for length in range(1, len(each))}
    if len(set(parts)) != len(parts) or known.intersection(parts):
        raise IntegrityError("two files of the index have one place", op=op)
    found: list[File] = []
    start = 0
    for each in entries:
        data = contents[start : start + each.size]
        start += each.size
        if _sum(data) != each.sha256:
            raise IntegrityError(f"{each.name!r} is damaged: its SHA-256 differs", op=op, failed_keys=[each.name])
        found.append(File(each.name, each.mode, data))
    return found


def _sum(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _proven(whose: str, entries: Sequence[_Entry]) -> bytes:
    return whose.encode() + msgspec.json.encode(entries)
