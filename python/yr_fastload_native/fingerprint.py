"""What tells one checkpoint's files from another's, at the price of a few small reads.

Two fine-tunings of one model have files of the same names, sizes and headers: only their data differs. Reading all of
it would take as long as loading it, so a sample is read: some bytes from the middle of every tensor.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from yr_fastload_native.checkpoint import scan_file
from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["SAMPLE_BYTES", "fingerprint_files", "weight_files"]

SAMPLE_BYTES = 64 << 10  # of data, most, of one file
_LEAST_BYTES = 64  # of a tensor; a file of more tensors than fit is sampled evenly
_MOST_BYTES = 4096
_THREADS = 16  # files at a time: a disk answers several small reads as fast as one
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")  # the first kind that a directory holds


def weight_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the weights of a checkpoint.

    Args:
        path: Its directory, or its only file.

    Returns:
        Sorted by name: every file of the first kind found, of safetensors, bin, pt, pth and GGUF.

    Raises:
        InvalidArgumentError: There is none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    for suffix in _SUFFIXES:
        files = sorted(each for each in root.glob(f"*{suffix}") if each.is_file())
        if files:
            return files
    raise InvalidArgumentError(
        f"{root} holds no files of weights ({', '.join(_SUFFIXES)}); to tell checkpoints apart without them set "
        "fingerprint to a text that names these weights, for example their revision",
        op="fingerprint",
        failed_keys=[str(root)],
    )


def fingerprint_files(files: Sequence[Path]) -> str:
    """Digest names, sizes, headers and at most 64 KiB of the data of each file.

    The same on every host that holds the same files: neither their directory nor their times count.

    Args:
        files: From `weight_files`.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        InvalidArgumentError: A file cannot be read.
        IntegrityError: A safetensors file breaks its format.
    """
    total = hashlib.sha256()
    with ThreadPoolExecutor(min(_THREADS, len(files) or 1), thread_name_prefix="yr-fastload-fingerprint") as pool:
        for path, digest in zip(files, pool.map(_digest, files), strict=True):
            total.update(f"{len(path.name)}:{path.name}:{digest}\n".encode())
    return total.hexdigest()


def _digest(path: Path) -> str:
    header, samples = (b"", []) if path.suffix != ".safetensors" else _of_safetensors(path)
    try:
        with path.open("rb", buffering=0) as file:
            descriptor = file.fileno()
            size = os.fstat(descriptor).st_size
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead of small blocks
            digest = hashlib.sha256(f"{size}:{len(header)}:".encode() + header)
            for offset, count in samples or _blocks(size):
                digest.update(os.pread(descriptor, count, offset))
    except OSError as error:
        raise InvalidArgumentError(
            f"{path} cannot be read: {error.strerror}; check its permissions",
            op="fingerprint",
            failed_keys=[str(path)],
        ) from error
    return digest.hexdigest()


def _of_safetensors(path: Path) -> tuple[bytes, list[tuple[int, int]]]:
    """The header, and where to read how much: in the middle of every tensor."""
    tensors = [tensor for tensor in scan_file(path) if tensor.nbytes]
    with path.open("rb") as file:
        header = file.read(8)
        header += file.read(int.from_bytes(header, "little"))
    most = SAMPLE_BYTES // _LEAST_BYTES
    if len(tensors) > most:
        tensors = [tensors[index * len(tensors) // most] for index in range(most)]
    share = min(_MOST_BYTES, SAMPLE_BYTES // max(1, len(tensors)))
    return header, [(t.offset + max(0, t.nbytes - share) // 2, min(share, t.nbytes)) for t in tensors]


def _blocks(size: int) -> list[tuple[int, int]]:
    """Where to read how much of a file whose tensors are not known."""
    count = SAMPLE_BYTES // _MOST_BYTES
    starts = {index * max(0, size - _MOST_BYTES) // (count - 1) for index in range(count)}
    return [(start, _MOST_BYTES) for start in sorted(starts)]
