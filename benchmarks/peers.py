"""Other ways to get a checkpoint's tensors, which a pull is measured against, each in its best mode.

Where tensors end up decides what a way costs, so each says it, and stands beside pulls that end in the same state:
``fresh`` memory of their own that nobody has touched, memory that they have ``touched`` before (copied into what is
there), or no memory of their own: ``mapped`` files, untouched, or with every page touched once.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs
import torch

from yr_fastload_native.process.versions import installed

__all__ = ["TORCH_FILE", "Peer", "available", "read_sequentially", "versions"]

TORCH_FILE = "pytorch_model.bin"
_BLOCK_BYTES = 8 << 20

Tensors = dict[str, torch.Tensor]


@attrs.frozen
class Peer:
    """One way, in one mode.

    Attributes:
        name: The library, and its mode if it has several.
        module: The module that must be installed.
        destination: State of the memory that tensors end up in: ``fresh``, ``touched``, ``mapped``, ``mapped, read``.
        read: Tensors of a folder; into the given ones, if the destination is ``touched``.
    """

    name: str
    module: str
    destination: str
    read: Callable[[Path, Tensors], Tensors]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _mapped(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors.torch import load_file

    for file in _files(folder):
        yield from load_file(file).items()


def _safetensors_read(folder: Path, _: Tensors) -> Tensors:
    found = dict(_mapped(folder))
    for tensor in found.values():
        tensor.view(torch.uint8).view(-1)[:: mmap.PAGESIZE].sum()
    return found


def _fill(target: Tensors, source: Iterator[tuple[str, torch.Tensor]]) -> Tensors:
    """Copy with torch, which uses all cores for a large tensor."""
    for name, tensor in source:
        target[name].copy_(tensor)
    return target


def _torch_mmap(folder: Path, _: Tensors) -> Tensors:
    loaded = torch.load(folder / TORCH_FILE, mmap=True, weights_only=True)
    return {name: tensor.clone() for name, tensor in loaded.items()}


def _fastsafetensors(folder: Path, _: Tensors) -> Tensors:
    """Takes over its buffers, so that nothing is copied a second time."""
    from fastsafetensors import fastsafe_open

    with fastsafe_open([str(file) for file in _files(folder)], device="cpu", nogds=True) as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping


def _runai(folder: Path, *, owned: bool) -> Iterator[tuple[str, torch.Tensor]]:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(file) for file in _files(folder)], owned=owned)
        yield from streamer.get_tensors()


_RUNAI = "runai_model_streamer"
_PEERS = (
    Peer("safetensors", "safetensors", "fresh", lambda folder, _: {n: t.clone() for n, t in _mapped(folder)}),
    Peer("safetensors", "safetensors", "touched", lambda folder, target: _fill(target, _mapped(folder))),
    Peer("safetensors", "safetensors", "mapped", lambda folder, _: dict(_mapped(folder))),
    Peer("safetensors", "safetensors", "mapped, read", _safetensors_read),
    Peer("torch.load(mmap=True)", "torch", "fresh", _torch_mmap),
    Peer("fastsafetensors", "fastsafetensors", "fresh", _fastsafetensors),
    Peer("run:ai model streamer", _RUNAI, "fresh", lambda folder, _: dict(_runai(folder, owned=True))),
    Peer(
        *("run:ai model streamer", _RUNAI, "touched"),
        lambda folder, target: _fill(target, _runai(folder, owned=False)),  # its buffers are used again at once
    ),
)


def available() -> list[Peer]:
    """The peers that are installed."""
    return [peer for peer in _PEERS if importlib.util.find_spec(peer.module) is not None]


def versions() -> Mapping[str, str | None]:
    """Versions of the libraries of all installed peers."""
    names = {peer.module.replace("_", "-") for peer in available()}
    return {name: installed(name) for name in sorted(names)}


def read_sequentially(folder: Path) -> None:
    """Read all files into one small buffer: the rate of the disk, or of the page cache."""
    buffer = bytearray(_BLOCK_BYTES)
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while file.readinto(buffer):
                pass
