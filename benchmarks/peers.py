"""Other ways to get a checkpoint's tensors into memory of their own: what a pull is measured against."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

__all__ = ["TORCH_FILE", "available", "read_sequentially"]

TORCH_FILE = "pytorch_model.bin"
_BLOCK_BYTES = 8 << 20

Tensors = dict[str, torch.Tensor]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _safetensors(folder: Path) -> Tensors:
    """It maps the files; what a framework does next is to copy into parameters of its own."""
    from safetensors.torch import load_file

    return {name: tensor.clone() for file in _files(folder) for name, tensor in load_file(file).items()}


def _torch_mmap(folder: Path) -> Tensors:
    loaded = torch.load(folder / TORCH_FILE, mmap=True, weights_only=True)
    return {name: tensor.clone() for name, tensor in loaded.items()}


def _fastsafetensors(folder: Path) -> Tensors:
    """Its buffers are the caller's afterwards, so that nothing is copied a second time."""
    from fastsafetensors import fastsafe_open

    with fastsafe_open([str(file) for file in _files(folder)], device="cpu", nogds=True) as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping


def _runai(folder: Path) -> Tensors:
    """Its tensors lie in a buffer that it uses again."""
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(file) for file in _files(folder)])
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}


_PEERS: dict[str, tuple[str, Callable[[Path], Tensors]]] = {
    "safetensors": ("safetensors", _safetensors),
    "torch.load(mmap=True)": ("torch", _torch_mmap),
    "fastsafetensors": ("fastsafetensors", _fastsafetensors),
    "run:ai model streamer": ("runai_model_streamer", _runai),
}


def available() -> Mapping[str, Callable[[Path], Tensors]]:
    """Those that are installed, by name."""
    return {name: read for name, (module, read) in _PEERS.items() if importlib.util.find_spec(module) is not None}


def read_sequentially(folder: Path) -> None:
    """Read all files into one small buffer: what the disk gives, or the page cache."""
    buffer = bytearray(_BLOCK_BYTES)
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while file.readinto(buffer):
                pass
