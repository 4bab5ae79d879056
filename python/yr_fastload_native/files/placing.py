"""Puts files in place: whole or not at all, nothing over what is there, and nothing outside the directories named."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, ResourceExhaustedError
from yr_fastload_native.files.file_set import File, check_name

__all__ = ["Placed", "place"]

_OP = "place files"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@attrs.frozen
class Placed:
    """What became of the files of a set, by name.

    Attributes:
        written: Put in place.
        kept: That were there already, whatever they hold.
        differing: Those of ``kept`` that have another size.
    """

    written: list[str] = attrs.field(factory=list)
    kept: list[str] = attrs.field(factory=list)
    differing: list[str] = attrs.field(factory=list)


def place(files: Iterable[File], roots: Mapping[str, Path]) -> Placed:
    """Put each file where its name says, unless something is there.

    A file appears under its name when it is complete. Directories below the roots that are links are not entered. Those
    that are made, and the files, are closed to group and others; of a mode only whether the user may execute counts.

    Args:
        files: Names begin with that of a root.
        roots: Directories, by name; made if they are missing.

    Raises:
        IntegrityError: A name leads elsewhere; nothing was written. Or there is a link, or a file, on its way.
        ResourceExhaustedError: The disk is full.
        InvalidArgumentError: A directory cannot be written to.
    """
    wanted = [(file, _parts(file, roots)) for file in files]
    placed = Placed()
    for file, (root, *directories, last) in wanted:
        with _refusing(file, roots[root]), _entered(roots[root], directories) as directory:
            there = _size_of(last, directory)
            if there is None and _write(file, last, directory):
                placed.written.append(file.name)
                continue
            placed.kept.append(file.name)
            if _size_of(last, directory) != file.size:
                placed.differing.append(file.name)
    return placed


def _parts(file: File, roots: Mapping[str, Path]) -> tuple[str, ...]:
    parts = check_name(file.name, op=_OP)
    if len(parts) < 2 or parts[0] not in roots:
        raise IntegrityError(
            f"{file.name!r} does not belong into any of {', '.join(sorted(roots))}", op=_OP, failed_keys=[file.name]
        )
    return parts


@contextlib.contextmanager
def _refusing(file: File, root: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that names the file."""
    try:
        yield
    except OSError as error:
        why = f"{file.name!r} cannot be put into {root}: {error.strerror}"
        if error.errno in _FULL:
            raise ResourceExhaustedError(why, op=_OP, failed_keys=[file.name]) from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise IntegrityError(f"{why} (no links are followed)", op=_OP, failed_keys=[file.name]) from error
        raise InvalidArgumentError(why, op=_OP, failed_keys=[file.name]) from error


@contextlib.contextmanager
def _entered(root: Path, directories: Iterable[str]) -> Iterator[int]:
    """A descriptor of a directory below a root, made if it is missing."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root, _DIRECTORY)
    try:
        for name in directories:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=descriptor)
            inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _size_of(name: str, directory: int) -> int | None:
    """Bytes of what is there, of any kind; None: nothing is."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _write(file: File, name: str, directory: int) -> bool:
    """Whether it is in place now; not if something has appeared there meanwhile."""
    new = f".yr-fastload-{secrets.token_hex(8)}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as opened:
            opened.write(file.data)
            os.fchmod(descriptor, 0o600 | file.mode & stat.S_IXUSR)
        try:
            # A rename would replace what is there.
            os.link(new, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            return False
        return True
    finally:
        os.unlink(new, dir_fd=directory)
