"""Weights that are read by other ways than `load_weights`."""

from __future__ import annotations

import hashlib
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.vllm.read_elsewhere import Watch

TENSORS = {"a": torch.arange(3)}


def by_name(path: Path) -> None:
    """As a module does that has imported it by name."""
    module = sys.modules["imports_by_name"]
    with module.safe_open(path, framework="pt") as file:  # type: ignore[attr-defined]
        file.get_tensor("a")


READERS: dict[str, Callable[[Path], object]] = {
    "bytes.safetensors": lambda path: safetensors.torch.load(path.read_bytes()),
    "file.safetensors": lambda path: safetensors.torch.load_file(path),
    "named.safetensors": by_name,
    "torch.bin": torch.load,
    "torch.pt": lambda path: torch.load(path, mmap=True),
    "numpy.npy": np.load,
    "mapped.npy": lambda path: np.load(path, mmap_mode="r"),
}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    module = types.ModuleType("imports_by_name")
    vars(module)["safe_open"] = safetensors.safe_open
    monkeypatch.setitem(sys.modules, "imports_by_name", module)

    def of(name: str) -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(TENSORS, path)
        elif path.suffix == ".npy":
            np.save(path, np.arange(3))
        else:
            torch.save(TENSORS, path)
        return path

    return of


@pytest.mark.parametrize("name", list(READERS))
def test_every_way_of_reading_is_seen(write: Callable[[str], Path], name: str) -> None:
    path = write(name)
    READERS[name](path)  # before
    with Watch() as watch:
        READERS[name](path)
    assert watch.others([]) == [str(path)]
    assert watch.others([path]) == watch.contents([path]) == []
    assert watch.contents() == [f"{name}:{hashlib.sha256(path.read_bytes()).hexdigest()}"]


def test_safetensors_is_left_as_it_was(write: Callable[[str], Path]) -> None:
    path = write("x.safetensors")
    original = safetensors.safe_open
    with Watch() as outer:
        assert safetensors.safe_open is not original
        with Watch() as inner:
            inner.end()
            safetensors.torch.load_file(path)
    assert safetensors.safe_open is safetensors.torch.safe_open is original
    assert sys.modules["imports_by_name"].safe_open is original  # type: ignore[attr-defined]
    safetensors.torch.load_file(path)
    assert outer.others([]) == [str(path)]
    assert inner.others([]) == []


def test_what_is_no_reading_of_weights(tmp_path: Path, write: Callable[[str], Path]) -> None:
    with Watch() as watch:
        write("written.npy")
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "config.json").read_text()
        with pytest.raises(FileNotFoundError):
            torch.load(tmp_path / "missing.pt")
        path = write("ours.npy")
        ours = threading.Thread(target=np.load, args=(path,), name="yr-fastload-verify")
        ours.start()
        ours.join()
    assert watch.contents() == []


def test_links_lead_to_what_is_read(tmp_path: Path, write: Callable[[str], Path]) -> None:
    """As in Hugging Face's cache."""
    blob = write("x.npy").rename(tmp_path / "0123")
    link = tmp_path / "weights.npy"
    link.symlink_to(blob)
    with Watch() as watch:
        np.load(link)
    assert watch.others([link]) == watch.others([blob]) == []
    assert watch.contents()[0].startswith("weights.npy:")


def test_a_file_that_is_replaced_meanwhile(write: Callable[[str], Path]) -> None:
    path = write("x.npy")
    with Watch() as watch:
        np.load(path)
    path.unlink()
    np.save(path, np.arange(4))
    with pytest.raises(InvalidArgumentError, match=r"x\.npy, from which this model read .* replaced meanwhile"):
        watch.contents()
    path.unlink()
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        watch.contents()
