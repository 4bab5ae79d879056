"""Writes the files of a published checkpoint again, byte for byte."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import numpy as np

from yr_fastload_native.catalogue.checkpoint import FILE, HEADER
from yr_fastload_native.checkpoints.safetensors_files import scan_file
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError
from yr_fastload_native.loading.published_checkpoint import PublishedCheckpoint
from yr_fastload_native.process.typed_os_errors import typed_os_errors

__all__ = ["Written", "export"]

_LENGTH_BYTES = 8


@attrs.frozen
class Written:
    """One file.

    Attributes:
        sha256: Of its bytes.
        compared: Whether its publisher has told the sum of the file that it read, which is the same.
    """

    name: str
    bytes: int
    sha256: str
    compared: bool


def export(checkpoint: PublishedCheckpoint, directory: Path, sums: Mapping[str, str]) -> list[Written]:
    """Write the files that a checkpoint was published from into a directory, which appears whole or not at all.

    Args:
        checkpoint: Opened for numpy.
        directory: Must not exist, or must be empty.
        sums: SHA-256 of the files that it was published from, by name, as far as they are known.

    Raises:
        InvalidArgumentError: The directory is not empty or cannot be written, or what was published were no files of
            safetensors.
        IntegrityError: The files would not be those that were published.
        ResourceExhaustedError: The disk is full.
        FastLoadError: As from `PublishedCheckpoint`.
    """
    every = checkpoint.with_entries()
    names = [name.removeprefix(HEADER) for name in every if name.startswith(HEADER)]
    if not names:
        raise InvalidArgumentError(
            "it was published from files of torch's, of which only the tensors are kept", op="export"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidArgumentError(f"{directory} is not an empty directory; name another", op="export")
    with typed_os_errors(directory, op="export"):
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".exporting-", dir=directory.parent) as temporary:
            made = Path(temporary) / "checkpoint"
            made.mkdir()
            written = [_write_tensors(every, made, name) for name in names]
            beside = [name.removeprefix(FILE) for name in every if name.startswith(FILE)]
            written += [_write(made, name, [every[FILE + name]]) for name in beside]
            _check_tensors(checkpoint, made, names)
            compared = [_compared(each, sums) for each in written]
            made.rename(directory)
    return compared


def _write_tensors(every: PublishedCheckpoint, directory: Path, name: str) -> Written:
    header = every[HEADER + name]
    try:
        entries = json.loads(header[_LENGTH_BYTES:].tobytes())
        entries.pop("__metadata__", None)
        order = sorted(entries, key=lambda each: tuple(entries[each]["data_offsets"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _not_the_same(name, f"its header is none: {error}") from None
    missing = [each for each in order if each not in every]
    if missing:
        raise _not_the_same(name, f"tensor {missing[0]!r} was not published")
    return _write(directory, name, (header, *(every[each] for each in order)))


def _write(directory: Path, name: str, parts: Any) -> Written:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise _not_the_same(name, "it is no name of a file")
    total = hashlib.sha256()
    with (directory / name).open("xb") as file:
        for part in parts:
            _append(file, np.asarray(part).reshape(-1).view(np.uint8), total)
        size = file.tell()
    return Written(name, size, total.hexdigest(), compared=False)


def _append(file: BinaryIO, part: np.ndarray[Any, Any], total: Any) -> None:
    file.write(part.data)
    total.update(part.data)


def _check_tensors(checkpoint: PublishedCheckpoint, directory: Path, names: list[str]) -> None:
    """That the files, read by their own headers, have the published tensors, each once."""
    found = [tensor for name in names for tensor in scan_file(directory / name)]
    if sorted(tensor.name for tensor in found) != sorted(checkpoint):
        raise _not_the_same(directory.name, "its tensors are not those that were published")
    for tensor in found:
        published = checkpoint[tensor.name]
        if (published.dtype, published.shape) != (tensor.dtype, tensor.shape):
            raise _not_the_same(tensor.path.name, f"tensor {tensor.name!r} has another dtype or shape")


def _compared(written: Written, sums: Mapping[str, str]) -> Written:
    known = sums.get(written.name)
    if known is not None and known != written.sha256:
        raise _not_the_same(written.name, f"its SHA-256 is {written.sha256}, and its publisher read {known}")
    return attrs.evolve(written, compared=known is not None)


def _not_the_same(name: str, why: str) -> IntegrityError:
    return IntegrityError(f"file {name!r} would not be the published one: {why}", op="export", failed_keys=[name])
