"""Models of the campaign as files of safetensors, and what was read of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import yr_fastload_native as fl
from chaos.models import Model

__all__ = ["differing", "open_soon", "write_files"]

_DTYPES = {"uint8": "U8", "int32": "I32", "float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64"}
_POLL_S = 0.01


def write_files(directory: Path, model: Mapping[str, int], content: int) -> None:
    """Write a model; the file that is there already is replaced at once."""
    directory.mkdir(exist_ok=True)
    new = directory / ".new"
    new.write_bytes(_file(_tensors(model, content)))
    new.rename(directory / "model.safetensors")


def open_soon(
    loader: fl.FastLoader, source: Any, framework: str, verify: str, deadline_s: float
) -> fl.PublishedCheckpoint:
    """Open a checkpoint, within half of a deadline that somebody may need to publish it."""
    end = time.monotonic() + deadline_s / 2
    while True:
        try:
            return loader.checkpoint(source, framework=framework, verify=verify, deadline_s=deadline_s / 2)
        except fl.NotPublishedError:
            if time.monotonic() > end:
                raise
            time.sleep(_POLL_S)


def differing(read: Mapping[str, Any], model: Mapping[str, int], content: int) -> int:
    """How many bytes are not those of this content; all of a tensor that is missing or too much."""
    wanted = _tensors(model, content)
    wrong = sum(wanted[name].nbytes for name in wanted.keys() - read.keys()) + len(read.keys() - wanted.keys())
    for name in wanted.keys() & read.keys():
        found, right = _bytes(read[name]), _bytes(wanted[name])
        wrong += right.size if found.size != right.size else int(np.count_nonzero(found != right))
    return wrong


def _tensors(model: Mapping[str, int], content: int) -> dict[str, NDArray[Any]]:
    made = Model(model["structure"], model["size"], "numpy", content).tensors
    return {name: np.ascontiguousarray(tensor) for name, tensor in made.items()}


def _bytes(tensor: Any) -> NDArray[np.uint8]:
    if not isinstance(tensor, np.ndarray):
        import torch

        tensor = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    flat: NDArray[np.uint8] = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    return flat


def _file(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    entries, end = {}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": (begin, end)}
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + b"".join(tensor.tobytes() for tensor in tensors.values())
