"""A checkpoint in files, and what was read of it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

import yr_fastload_native as fl
from yr_fastload_native.testing import MemoryStore


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        "embed": torch.rand(600, 1000, generator=made),  # larger than 1 MiB
        "layers.0.weight": torch.rand(300, 300, generator=made).to(torch.bfloat16),
        "layers.0.scale": torch.tensor(1.5),
        "layers.1.weight": torch.randint(-128, 127, (50, 7), generator=made).to(torch.int8),
        "layers.1.eighth": torch.rand(33, generator=made).to(torch.float8_e4m3fn),
        "mask": torch.rand(11, generator=made) > 0.5,
        "empty": torch.zeros(0, 4),
    }


def make_files(directory: Path) -> Path:
    directory.mkdir()
    tensors = weights()
    names = {"model-1.safetensors": list(tensors)[:3], "model-2.safetensors": list(tensors)[3:]}
    for file, held in names.items():
        save_file({name: tensors[name] for name in held}, directory / file, metadata={"format": "pt"})
    where = ", ".join(f'"{name}": "{file}"' for file, held in names.items() for name in held)
    (directory / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{where}}}}}')
    return directory


def chunk_keys(store: MemoryStore) -> list[str]:
    return sorted(key for key in store.keys() if "-chunk-" in key)  # noqa: SIM118


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def assert_right(opened: fl.PublishedCheckpoint, wanted: dict[str, torch.Tensor]) -> None:
    assert opened.keys() == wanted.keys()
    for name, tensor in opened.items():
        assert tensor.dtype == wanted[name].dtype
        assert tensor.shape == wanted[name].shape
        assert torch.equal(as_bytes(tensor), as_bytes(wanted[name])), name
