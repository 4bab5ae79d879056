"""Safetensors checkpoints without torch: which tensors they hold, and where.

The numpy interface of safetensors supports neither bfloat16 nor float8, so the format is parsed here: the length of the
header (eight bytes, little-endian), the header (JSON), the data. Source: README.md of huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.checkpoints.typed_reads import CLIP, damaged, open_file, read
from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError

__all__ = ["StoredTensor", "fingerprint", "scan_directory", "scan_file"]

_INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 32  # of an array in numpy 1
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
                f"no memory for tensor {self.name[:CLIP]!r} of {self.path}, {self.nbytes} bytes; free some or choose "
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
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = int.from_bytes(read(file, path, min(8, size)), "little")
        if not 2 <= header_bytes <= min(size - 8, _MAX_HEADER_BYTES):
            raise damaged(path, f"its header would be {header_bytes} bytes in a file of {size}")
        try:
            header = _HEADER_DECODER.decode(read(file, path, header_bytes))
        except _BAD_JSON as error:
            raise damaged(path, f"its header is not a JSON object: {error}") from None
    data_start = 8 + header_bytes
    header.pop("__metadata__", None)
    tensors = sorted(
        (_stored_tensor(path, name, raw, data_start) for name, raw in header.items()),
        key=lambda tensor: (tensor.offset, tensor.nbytes),
    )
    expected = data_start
    for tensor in tensors:
        if tensor.offset != expected or tensor.offset + tensor.nbytes > size:
            raise damaged(path, "its data overlaps, leaves a gap or passes the end of the file", tensor.name)
        expected += tensor.nbytes
    if expected != size:
        raise damaged(path, f"{size - expected} bytes at its end belong to no tensor")
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
                raise damaged(path, f"{tensors[tensor.name].path.name} holds it too", tensor.name)
            tensors[tensor.name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise damaged(index_path, f"it places a tensor in {shard!r}, which does not hold it", name)
    return tensors


def fingerprint(stored: Mapping[str, StoredTensor]) -> str:
    """Digest the headers (names, dtypes, shapes, files and offsets), not the data.

    Returns:
        SHA-256, hexadecimal.
    """
    layout = [[t.name, t.dtype.name, t.shape, t.path.name, t.offset] for t in stored.values()]
    return hashlib.sha256(json.dumps(layout).encode()).hexdigest()


def _read_index(path: Path) -> dict[str, str]:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_HEADER_BYTES:
            raise damaged(path, f"it is larger than {_MAX_HEADER_BYTES} bytes")
        try:
            weight_map = _INDEX_DECODER.decode(read(file, path, size)).weight_map
        except _BAD_JSON as error:
            raise damaged(path, f"it is not an index: {error}") from None
    for name, shard in weight_map.items():
        if "/" in shard or "\0" in shard or not shard.endswith(".safetensors"):
            raise damaged(path, f"its file {shard[:CLIP]!r} is not a safetensors file of this directory", name)
    return weight_map


def _stored_tensor(path: Path, name: str, raw: msgspec.Raw, data_start: int) -> StoredTensor:
    try:
        entry = _ENTRY_DECODER.decode(raw)
    except _BAD_JSON as error:
        raise damaged(path, f"its entry in the header is malformed: {error}", name) from None
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise damaged(path, f"its dtype {entry.dtype[:CLIP]!r} is not one of {', '.join(_DTYPES)}", name)
    # A zero elsewhere in the shape does not excuse impossible dimensions.
    if math.prod(max(1, length) for length in entry.shape) * dtype.itemsize >= 1 << 63:
        raise damaged(path, f"its shape {entry.shape} is too large", name)
    nbytes = math.prod(entry.shape) * dtype.itemsize
    begin, end = entry.data_offsets
    if begin < 0 or end - begin != nbytes:
        raise damaged(path, f"offsets {begin}:{end} do not span {entry.dtype}{entry.shape}, {nbytes} bytes", name)
    return StoredTensor(name, dtype, tuple(entry.shape), path, data_start + begin, nbytes)
