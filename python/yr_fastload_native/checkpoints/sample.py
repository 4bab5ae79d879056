"""Which bytes of a checkpoint's files distinguish it quickly, and their digest.

Two fine-tunings of one model have files with the same names, sizes and headers; only their data differs, perhaps in a
few rows. Reading everything would take as long as loading it. So small files are read completely, and of the others
both ends of every tensor and blocks spread over it. Which blocks is a pure function of the sizes, the same on every
host.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import attrs

from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.errors import InvalidArgumentError, TransferTimeoutError

__all__ = ["Sampled", "sample"]

_T = TypeVar("_T")

_BLOCK_BYTES = 4096
_BLOCKS = 4096  # of all tensors together, if each has at least two
_LEAST, _MOST = 2, 16  # blocks per tensor; the last of one and the first of the next are one read
_OTHER_BLOCKS = 256  # of a file whose tensors are unknown
_TAIL_BYTES = 1 << 20  # and its end, where a torch archive keeps the checksum of each tensor
_GAP_BYTES = 32 << 10  # reading this much more is cheaper than another read
_WHOLE_BYTES = 32 << 20  # of all files together; each may be 1 MiB anyway
_LEAST_WHOLE_BYTES = 1 << 20
_READ_BYTES = 4 << 20
_HEADER_BYTES = 256 << 10  # size of the first read
_MOST_HEADER_BYTES = 100 << 20  # the limit of safetensors
_RANGES_A_TASK = 16
_THREADS = 64  # a slow file system serves many reads in the time of one

_Range = tuple[int, int]  # offset and bytes


@attrs.frozen
class Sampled:
    """The sample of one file.

    Attributes:
        state: Of the file before anything was read.
        digest: SHA-256 of the sample, or of the file if ``whole``.
    """

    state: FileState
    digest: str
    whole: bool


@attrs.define
class _Opened:
    path: Path
    descriptor: int
    state: FileState
    ends: float  # of time.monotonic()
    header: bytes = b""
    tensors: list[_Range] | None = None

    def read(self, start: int, count: int, *, waits: bool = True) -> bytes:
        """Bytes from ``start`` on; fewer if the file became shorter, which its state will show.

        Raises:
            BlockingIOError: It does not wait, and they are not in memory.
        """
        pieces = []
        while count:
            if time.monotonic() > self.ends:
                raise _too_late()
            try:
                piece = os.pread(self.descriptor, count, start) if waits else self._read_cached(start, count)
            except OSError as error:
                if not waits:  # or the file system cannot tell
                    raise BlockingIOError(*error.args) from error
                raise _unreadable(self.path, error) from error
            if not piece:
                break
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return b"".join(pieces)

    def will_read(self, ranges: Sequence[_Range]) -> None:
        """Have the disk bring them all at once, while others are digested."""
        for start, count in ranges:
            os.posix_fadvise(self.descriptor, start, count, os.POSIX_FADV_WILLNEED)

    def _read_cached(self, start: int, count: int) -> bytes:
        piece = bytearray(count)
        return bytes(piece[: os.preadv(self.descriptor, [piece], start, os.RWF_NOWAIT)])


def sample(paths: Sequence[Path], *, deadline_s: float) -> list[Sampled]:
    """Sample every file of a checkpoint.

    Args:
        paths: All files. How much of each is read depends on their number and their tensors.
        deadline_s: Time limit, seconds. A read that is then under way is waited for.

    Raises:
        InvalidArgumentError: A file cannot be read.
        TransferTimeoutError: Not done in time.
    """
    ends = time.monotonic() + deadline_s
    whole_bytes = max(_LEAST_WHOLE_BYTES, _WHOLE_BYTES // max(1, len(paths)))
    opening: list[Future[_Opened]] = []
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="yr-fastload-fingerprint")
    try:
        opening += [pool.submit(_open, path, whole_bytes, ends) for path in paths]
        return _sampled(pool, _results(opening), whole_bytes)
    finally:
        pool.shutdown(cancel_futures=True)
        for each in opening:
            if not each.cancelled() and each.exception() is None:
                os.close(each.result().descriptor)


def _sampled(pool: ThreadPoolExecutor, opened: list[_Opened], whole_bytes: int) -> list[Sampled]:
    tensors = sum(len(each.tensors or ()) for each in opened)
    blocks = min(_MOST, max(_LEAST, _BLOCKS // max(1, tensors)))
    tasks: list[list[Future[str]]] = []
    for file in opened:
        if file.state.size <= whole_bytes:
            tasks.append([pool.submit(_digest_whole, file)])
            continue
        os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead of small blocks
        ranges = list(_merged(_ranges(file, blocks)))
        tasks.append(
            [
                _begun(pool, file, ranges[first : first + _RANGES_A_TASK])
                for first in range(0, len(ranges), _RANGES_A_TASK)
            ]
        )
    _results([task for of_file in tasks for task in of_file])
    found = []
    for file, of_file in zip(opened, tasks, strict=True):
        digests = [task.result() for task in of_file]
        if file.state.size <= whole_bytes:
            found.append(Sampled(file.state, digests[0], whole=True))
            continue
        total = hashlib.sha256(f"{file.state.size}:{len(file.header)}:".encode() + file.header)
        total.update("".join(digests).encode())
        found.append(Sampled(file.state, total.hexdigest(), whole=False))
    return found


def _begun(pool: ThreadPoolExecutor, file: _Opened, ranges: Sequence[_Range]) -> Future[str]:
    """Done at once if all of it is in memory: the start of a thread takes longer then."""
    done: Future[str] = Future()
    try:
        done.set_result(_digest(file, ranges, waits=False))
    except BlockingIOError:
        file.will_read(ranges)
        return pool.submit(_digest, file, ranges)
    return done


def _results(futures: Sequence[Future[_T]]) -> list[_T]:
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)  # each ends by its deadline
    for each in done:
        each.result()  # raises what it raised
    return [each.result() for each in futures]


def _too_late() -> TransferTimeoutError:
    return TransferTimeoutError(
        "sampling the weight files took too long, their file system is slow; set fingerprint to a text "
        "that names these weights, or a longer deadline_s",
        op="fingerprint",
    )


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path} cannot be read: {error.strerror}; check its permissions", op="fingerprint", failed_keys=[str(path)]
    )


def _open(path: Path, whole_bytes: int, ends: float) -> _Opened:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe would block for ever
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        file = _Opened(path, descriptor, FileState.of(descriptor), ends)
        if file.state.size > whole_bytes and path.suffix == ".safetensors":
            _read_header(file)
        return file
    except BaseException:
        os.close(descriptor)
        raise


def _read_header(file: _Opened) -> None:
    """Find the tensors from the file's header, if that makes sense; judging the file is left to loading."""
    start = file.read(0, _HEADER_BYTES)
    size = int.from_bytes(start[:8], "little")
    if not 2 <= size <= min(file.state.size - 8, _MOST_HEADER_BYTES):
        return
    header = start[: 8 + size] if len(start) >= 8 + size else start + file.read(len(start), 8 + size - len(start))
    file.header = header
    try:
        entries = json.loads(header[8:])
        entries.pop("__metadata__", None)
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        last = file.state.size - 8 - size
        if all(type(begin) is type(end) is int and 0 <= begin <= end <= last for begin, end in spans):
            file.tensors = [(8 + size + begin, end - begin) for begin, end in spans if end > begin]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def _ranges(file: _Opened, blocks: int) -> Iterator[_Range]:
    """The ranges of a file to read, in order; they may touch or overlap."""
    if file.tensors is not None:
        for offset, count in file.tensors:
            yield from _spread(offset, count, blocks)
        return
    tail = min(_TAIL_BYTES, file.state.size)
    yield from _spread(0, file.state.size - tail, _OTHER_BLOCKS)
    yield file.state.size - tail, tail


def _spread(offset: int, count: int, blocks: int) -> Iterator[_Range]:
    """Blocks spread over a range, including both ends, or the whole range if that is no more."""
    if count <= blocks * _BLOCK_BYTES:
        yield offset, count
        return
    for block in range(blocks):
        yield offset + block * (count - _BLOCK_BYTES) // (blocks - 1), _BLOCK_BYTES


def _merged(ranges: Iterator[_Range]) -> Iterator[_Range]:
    """Merge ranges with small gaps between them."""
    start, end = -1, -1
    for offset, count in ranges:
        if start >= 0 and offset <= end + _GAP_BYTES and offset + count - start <= _READ_BYTES:
            end = max(end, offset + count)
            continue
        if start >= 0:
            yield start, end - start
        start, end = offset, offset + count
    if start >= 0:
        yield start, end - start


def _digest(file: _Opened, ranges: Sequence[_Range], *, waits: bool = True) -> str:
    total = hashlib.sha256()
    for offset, count in ranges:
        total.update(file.read(offset, count, waits=waits))
    return total.hexdigest()


def _digest_whole(file: _Opened) -> str:
    pieces = range(0, file.state.size, _READ_BYTES)
    return _digest(file, [(start, min(_READ_BYTES, file.state.size - start)) for start in pieces])
