"""Safetensors checkpoints without torch: scanning, reading and comparing them.

The numpy interface of safetensors supports neither bfloat16 nor float8, so the format is parsed here: the length of the
header (eight bytes, little-endian), the header (JSON), the data. Source: README.md of huggingface/safetensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import attrs
import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.checkpoints.synthetic import make_qwen2
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError, ResourceExhaustedError

__all__ = [
    "StoredTensor",
    "compare",
    "drop_page_cache",
    "fingerprint",
    "make_qwen2",
    "read_directory",
    "scan_directory",
    "scan_file",
]

_Progress = Callable[[int, int], None]

_INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 32  # of an array in numpy 1
_PIECE_BYTES = 16 << 20
_CLIP = 200  # longest quote from a file in an error message
_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "U16": np.uint16,
        "I16": np.int16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "U32": np.uint32,
        "I32": np.int32,
        "F32": np.float32,
        "U64": np.uint64,
        "I64": np.int64,
        "F64": np.float64,
        "C64": np.complex64,
    }.items()
}


@attrs.frozen
class StoredTensor:
    """A tensor on disk: ``nbytes`` bytes at ``offset`` bytes into the file ``path``."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    def allocate(self) -> NDArray[Any]:
        """Create an uninitialised array for it; if large, its memory was never touched.

        Raises:
            ResourceExhaustedError: There is not enough memory.
        """
        try:
            return np.empty(self.shape, self.dtype)
        except MemoryError:
            raise ResourceExhaustedError(
                f"no memory for tensor {self.name[:_CLIP]!r} of {self.path}, {self.nbytes} bytes; free some or choose "
                "a smaller checkpoint",
                op="checkpoint",
                failed_keys=[self.name],
            ) from None


class _Entry(msgspec.Struct):
    dtype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=_MAX_DIMENSIONS)]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


_HEADER_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENTRY_DECODER = msgspec.json.Decoder(_Entry)
_INDEX_DECODER = msgspec.json.Decoder(_Index)
_BAD_JSON = (msgspec.MsgspecError, ValueError, RecursionError)


def scan_file(path: Path) -> list[StoredTensor]:
    """Read the header of one safetensors file, as hostile input, in the order of the data.

    Raises:
        IntegrityError: The file breaks the format: sizes, offsets, gaps, overlaps, or an unknown dtype.
        InvalidArgumentError: It cannot be opened or read.
    """
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(_read(file, path, min(8, size)), "little")
        if not 2 <= header_bytes <= min(size - 8, _MAX_HEADER_BYTES):
            raise _damaged(path, f"its header would be {header_bytes} bytes in a file of {size}")
        try:
            header = _HEADER_DECODER.decode(_read(file, path, header_bytes))
        except _BAD_JSON as error:
            raise _damaged(path, f"its header is not a JSON object: {error}") from None
    data_start = 8 + header_bytes
    header.pop("__metadata__", None)
    tensors = sorted(
        (_stored_tensor(path, name, raw, data_start) for name, raw in header.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    expected = data_start
    for tensor in tensors:
        if tensor.offset != expected or tensor.offset + tensor.nbytes > size:
            raise _damaged(path, "its data overlaps, leaves a gap or passes the end of the file", tensor.name)
        expected += tensor.nbytes
    if expected != size:
        raise _damaged(path, f"{size - expected} bytes at its end belong to no tensor")
    return tensors


def scan_directory(directory: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Find every tensor of a Hugging Face checkpoint; only headers are read.

    The files are those that ``model.safetensors.index.json`` names or, without it, every ``*.safetensors``.

    Returns:
        Tensors by name, file by file, in the order of the data.

    Raises:
        IntegrityError: A file breaks the format, a shard or a tensor of the index is missing, or two files hold the
            same name.
        InvalidArgumentError: There is no such directory, no safetensors file in it, or one cannot be read.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InvalidArgumentError(f"{directory} is not a directory", op="checkpoint", failed_keys=[str(directory)])
    index_path = directory / _INDEX
    weight_map = _read_index(index_path) if index_path.exists() else {}
    paths = sorted({directory / shard for shard in weight_map.values()} or directory.glob("*.safetensors"))
    if not paths:
        raise InvalidArgumentError(
            f"{directory} holds no *.safetensors file; name the directory of a checkpoint in that format",
            op="checkpoint",
            failed_keys=[str(directory)],
        )
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for tensor in scan_file(path):
            if tensor.name in tensors:
                raise _damaged(path, f"{tensors[tensor.name].path.name} holds it too", tensor.name)
            tensors[tensor.name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise _damaged(index_path, f"it places a tensor in {shard!r}, which does not hold it", name)
    return tensors


def read_directory(
    directory: str | os.PathLike[str],
    *,
    drop_cache: bool = False,
    progress: _Progress | None = None,
    threads: int = 1,
) -> dict[str, NDArray[Any]]:
    """Read a checkpoint into memory allocated tensor by tensor, as a framework would.

    Without ``drop_cache``, files that were read or written recently come from a warm page cache.

    Args:
        directory: As for :func:`scan_directory`.
        drop_cache: Read from disk; see :func:`drop_page_cache`.
        progress: Called with the bytes read so far and in total, at least once every 16 MiB.
        threads: Number of threads, each of which reads part of the tensors.

    Raises:
        IntegrityError: As :func:`scan_directory`, or a file became shorter while it was read.
        InvalidArgumentError: As :func:`scan_directory`.
        ResourceExhaustedError: There is not enough memory.
    """
    stored = scan_directory(directory)
    if drop_cache:
        for path in {tensor.path for tensor in stored.values()}:
            drop_page_cache(path)
    total = sum(tensor.nbytes for tensor in stored.values())
    arrays = {name: tensor.allocate() for name, tensor in stored.items()}
    lock = threading.Lock()
    done = 0

    def read(part: Mapping[str, StoredTensor]) -> None:
        nonlocal done
        for file, tensor in _by_file(part):
            for piece in _pieces(arrays[tensor.name]):
                _read_into(file, tensor.path, piece)
                with lock:
                    done += piece.nbytes
                    if progress is not None:
                        progress(done, total)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, _parts(stored, threads)):
            pass
    return arrays


def compare(stored: Mapping[str, StoredTensor], arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Compare arrays with the files, every byte, 16 MiB at a time.

    Returns:
        Names whose dtype, shape or bytes differ, or that only one side has; empty if everything is equal.

    Raises:
        IntegrityError: A file became shorter.
        InvalidArgumentError: A file cannot be read.
    """
    scratch = np.empty(_PIECE_BYTES, np.uint8)
    same = set()
    for file, tensor in _by_file(stored):
        array = arrays.get(tensor.name)
        if array is None or array.dtype != tensor.dtype or array.shape != tensor.shape:
            continue
        equal = True
        for piece in _pieces(array):
            expected = scratch[: piece.nbytes]
            _read_into(file, tensor.path, expected)
            equal = equal and np.array_equal(piece, expected)
        if equal:
            same.add(tensor.name)
    return [name for name in dict.fromkeys([*stored, *arrays]) if name not in same]


def fingerprint(stored: Mapping[str, StoredTensor]) -> str:
    """Digest the headers (names, dtypes, shapes, files and offsets), not the data.

    Returns:
        SHA-256, hexadecimal.
    """
    layout = [[t.name, t.dtype.name, t.shape, t.path.name, t.offset] for t in stored.values()]
    return hashlib.sha256(json.dumps(layout).encode()).hexdigest()


def drop_page_cache(path: Path) -> int:
    """Drop a file from the page cache, so that it is next read from disk.

    Returns:
        Bytes that stayed in memory anyway (a file system in memory, or a file mapped by some process). To that extent
        the next read is a warm one. Linux reports the whole file as resident to users who neither own it nor may write
        to it (mincore(2)).

    Raises:
        InvalidArgumentError: The file cannot be opened.
    """
    with _open(path) as file:
        os.fsync(file.fileno())  # a page that is not yet written back cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _cached_bytes(file)


def _damaged(path: Path, detail: str, tensor: str | None = None) -> IntegrityError:
    where = str(path) if tensor is None else f"{path}: tensor {tensor[:_CLIP]!r}"
    return IntegrityError(
        f"{where}: {detail}; fetch the checkpoint again",
        op="checkpoint",
        failed_keys=[str(path) if tensor is None else tensor],
    )


def _unreadable(path: Path, error: OSError) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{path} cannot be read: {error.strerror}; check its path and permissions",
        op="checkpoint",
        failed_keys=[str(path)],
    )


def _open(path: Path) -> io.FileIO:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block for ever
            raise InvalidArgumentError(f"{path} is not a file", op="checkpoint", failed_keys=[str(path)])
        return io.FileIO(path)
    except FileNotFoundError:
        raise _damaged(path, "it is missing") from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_into(file: io.FileIO, path: Path, memory: NDArray[np.uint8]) -> None:
    view = memory.data
    while view:
        try:
            count = file.readinto(view)
        except OSError as error:
            raise _unreadable(path, error) from error
        if not count:
            raise _damaged(path, "it ends too early")
        view = view[count:]


def _read(file: io.FileIO, path: Path, size: int) -> bytes:
    memory = np.empty(size, np.uint8)
    _read_into(file, path, memory)
    return memory.tobytes()


def _by_file(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[io.FileIO, StoredTensor]]:
    """Yield every tensor with its open file, positioned at the tensor's first byte."""
    for path, tensors in groupby(stored.values(), lambda tensor: tensor.path):
        with _open(path) as file:
            for tensor in tensors:
                file.seek(tensor.offset)
                yield file, tensor


def _parts(stored: Mapping[str, StoredTensor], count: int) -> list[dict[str, StoredTensor]]:
    """Divide the tensors into this many runs of about equal size."""
    parts: list[dict[str, StoredTensor]] = [{} for _ in range(count)]
    total = max(1, sum(tensor.nbytes for tensor in stored.values()))
    before = 0
    for name, tensor in stored.items():
        parts[min(count - 1, before * count // total)][name] = tensor
        before += tensor.nbytes
    return parts


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[np.uint8]]:
    """Yield the bytes of a C-contiguous array in views of at most 16 MiB."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _PIECE_BYTES):
        yield flat[start : start + _PIECE_BYTES]


def _cached_bytes(file: io.FileIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if not size:
        return 0
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapping:
        resident = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        if ctypes.CDLL(None).mincore(
            ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(resident.ctypes.data)
        ):
            return size
    return min(size, int(np.count_nonzero(resident & 1)) * mmap.PAGESIZE)


def _read_index(path: Path) -> dict[str, str]:
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_HEADER_BYTES:
            raise _damaged(path, f"it is larger than {_MAX_HEADER_BYTES} bytes")
        try:
            weight_map = _INDEX_DECODER.decode(_read(file, path, size)).weight_map
        except _BAD_JSON as error:
            raise _damaged(path, f"it is not an index: {error}") from None
    for name, shard in weight_map.items():
        if "/" in shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise _damaged(path, f"its file {shard[:_CLIP]!r} is not a safetensors file of this directory", name)
    return weight_map


def _stored_tensor(path: Path, name: str, raw: msgspec.Raw, data_start: int) -> StoredTensor:
    try:
        entry = _ENTRY_DECODER.decode(raw)
    except _BAD_JSON as error:
        raise _damaged(path, f"its entry in the header is malformed: {error}", name) from None
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise _damaged(path, f"its dtype {entry.dtype[:_CLIP]!r} is not one of {', '.join(_DTYPES)}", name)
    # A zero elsewhere in the shape does not excuse impossible dimensions.
    if math.prod(max(1, length) for length in entry.shape) * dtype.itemsize >= 1 << 63:
        raise _damaged(path, f"its shape {entry.shape} is too large", name)
    nbytes = math.prod(entry.shape) * dtype.itemsize
    begin, end = entry.data_offsets
    if begin < 0 or end - begin != nbytes:
        raise _damaged(path, f"offsets {begin}:{end} do not span {entry.dtype}{entry.shape}, {nbytes} bytes", name)
    return StoredTensor(name, dtype, tuple(entry.shape), path, data_start + begin, nbytes)
