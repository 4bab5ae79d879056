"""Checkpoints as what is published: right tensors for whoever has the files, published once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.checkpoints.read_directory import compare
from yr_fastload_native.checkpoints.safetensors_files import scan_directory
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.weights.views import VIEWS

from .published_files import assert_right, weights

MIB = 1 << 20
Opener = Callable[..., fl.FastLoader]


def test_tensors_of_numpy(loader: fl.FastLoader, guest: fl.FastLoader, directory: Path) -> None:
    publication = loader.publish_checkpoint(directory)
    opened = guest.checkpoint(directory)
    assert not compare(scan_directory(directory), opened)
    assert opened["layers.0.weight"].dtype == ml_dtypes.bfloat16
    assert opened["layers.0.scale"].shape == ()
    assert opened.generation == publication.generation
    assert opened.bytes == sum(tensor.nbytes for tensor in weights().values())
    with pytest.raises(ValueError, match="read-only"):
        opened["embed"][0] = 1


def test_tensors_of_torch(loader: fl.FastLoader, guest: fl.FastLoader, directory: Path) -> None:
    loader.publish_checkpoint(directory)
    opened = guest.checkpoint(directory, framework="torch")
    assert_right(opened, weights())
    opened["embed"].fill_(7)  # in this process's own pages
    assert_right(guest.checkpoint(directory, framework="torch"), weights())


def test_no_byte_is_copied(loader: fl.FastLoader, guest: fl.FastLoader, directory: Path) -> None:
    """Until somebody writes, who gets a copy of the page."""

    def copied_bytes() -> int:
        total, ours = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split(" ", 1)[0]:
                ours = "memfd:yr-fastload-store" in line and line.split()[1].endswith("p")
            elif ours and line.startswith("Anonymous:"):
                total += int(line.split()[1]) << 10
        return total

    loader.publish_checkpoint(directory)
    opened = guest.checkpoint(directory, framework="torch", verify="digest")
    assert_right(opened, weights())
    assert copied_bytes() == 0
    opened["embed"][0, 0] = 1
    assert 0 < copied_bytes() < opened["embed"].nbytes


def test_subsets(loader: fl.FastLoader, guest: fl.FastLoader, directory: Path) -> None:
    loader.publish_checkpoint(directory)
    opened = guest.checkpoint(directory)
    assert set(opened.select(prefix="layers.0.")) == {"layers.0.weight", "layers.0.scale"}
    some = opened.select(["mask"], prefix="layers.1.")
    assert set(some) == {"mask", "layers.1.weight", "layers.1.eighth"}
    assert np.array_equal(some["mask"], opened["mask"])
    assert "embed" not in some
    with pytest.raises(KeyError, match="embed"):
        some["embed"]
    with pytest.raises(KeyError, match="none"):
        opened.select(["none"])


def test_the_files_alone_are_the_identity(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, tmp_path: Path
) -> None:
    loader.publish_checkpoint(directory)
    copy = shutil.copytree(directory, tmp_path / "elsewhere" / "another-name")
    opened = guest.checkpoint(copy)
    assert not compare(scan_directory(copy), opened)
    assert not compare(scan_directory(copy), guest.checkpoint(opened.identity))
    save_file(weights(1), copy / "model-1.safetensors")
    (copy / "model.safetensors.index.json").unlink()
    (copy / "model-2.safetensors").unlink()
    with pytest.raises(fl.NotPublishedError):
        guest.checkpoint(copy)


def test_torchs_own_files(loader: fl.FastLoader, guest: fl.FastLoader, tmp_path: Path) -> None:
    tensors = {"a": torch.rand(40, 30), "turned": torch.rand(20, 10).t(), "half": torch.rand(7).half()}
    tensors["tied"] = tensors["a"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    loader.publish_checkpoint(tmp_path)
    opened = guest.checkpoint(tmp_path, framework="torch")
    assert opened.keys() == tensors.keys()
    assert all(torch.equal(opened[name], tensor) for name, tensor in tensors.items())
    assert opened["tied"].data_ptr() == opened["a"].data_ptr()
    arrays = guest.checkpoint(tmp_path)
    assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in tensors.items())


def test_a_tensor_that_is_cut(open_loader: Opener, guest: fl.FastLoader, directory: Path) -> None:
    open_loader(chunk_bytes=MIB).publish_checkpoint(directory)
    for verify in ("once", "digest"):
        assert not compare(scan_directory(directory), guest.checkpoint(directory, verify=verify))


def test_a_pool_that_cannot_be_mapped(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container: chunks are copied, and are right all the same."""

    def refuse(*_: object, **__: object) -> None:
        raise fl.DeviceError("no process that this one may look into has it open", op="load")

    monkeypatch.setattr(_core, "map_chunks", refuse)
    loader.publish_checkpoint(directory)
    assert_right(guest.checkpoint(directory, framework="torch"), weights())


def test_few_chunks_are_kept(open_loader: Opener, guest: fl.FastLoader, directory: Path) -> None:
    open_loader(max_blobs=1).publish_checkpoint(directory)

    def mapped() -> int:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sum("memfd:yr-fastload-store" in line and line.split()[1].endswith("p") for line in lines)

    before = mapped()
    opened = guest.checkpoint(directory, window=2)
    for name, stored in scan_directory(directory).items():
        assert opened[name].nbytes == stored.nbytes
        assert mapped() - before <= 2
    opened.close()
    assert mapped() == before


def test_a_pool_that_has_room_for_few_chunks(
    open_loader: Opener, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    """Those that no tensor uses make room for others; once tensors use them all, the files are read."""
    publication = open_loader(max_blobs=1).publish_checkpoint(directory)
    largest = max(stored.nbytes for stored in scan_directory(directory).values())
    store.set_faults(readable_bytes=largest + 4096)
    opened = guest.checkpoint(directory, framework="torch")
    for name, wanted in weights().items():
        assert_right({name: opened[name]}, {name: wanted})
    assert not opened.from_files
    kept = dict(opened.items())
    assert opened.from_files
    assert_right(kept, weights())
    opened = guest.checkpoint(publication.identity)
    with pytest.raises(fl.ResourceExhaustedError):
        dict(opened.items())


def test_every_dtype_has_views() -> None:
    for name in ("bool", "uint8", "int16", "float16", "bfloat16", "float8_e5m2", "complex64", "float64"):
        for framework, views in VIEWS.items():
            made = views().tensor(views().base(bytearray(range(64))), 8, name, (2, 1), (1, 1))
            again = VIEWS["torch" if framework == "numpy" else "numpy"]().copied(made)
            assert str(again.dtype).removeprefix("torch.") == name
            assert tuple(again.shape) == (2, 1)


def test_a_dtype_that_torch_has_not() -> None:
    with pytest.raises(fl.InvalidArgumentError, match="has no dtype float8_e3m4"):
        VIEWS["torch"]().tensor(VIEWS["torch"]().base(bytearray(8)), 0, "float8_e3m4", (1,), (1,))


def test_the_same_files_again_join(loader: fl.FastLoader, other_loader: fl.FastLoader, directory: Path) -> None:
    first = loader.publish_checkpoint(directory)
    second = other_loader.publish_checkpoint(directory)
    assert second.joined
    assert second.generation == first.generation
    first.close()
    assert len(other_loader.checkpoint(directory)) == len(weights())


def test_a_reader_keeps_it_published(loader: fl.FastLoader, other_loader: fl.FastLoader, directory: Path) -> None:
    with loader:
        loader.publish_checkpoint(directory)
        other_loader.checkpoint(directory)
    assert not compare(scan_directory(directory), other_loader.checkpoint(directory))


def test_nothing_is_published(guest: fl.FastLoader, directory: Path, tmp_path: Path) -> None:
    with pytest.raises(fl.NotPublishedError):
        guest.checkpoint(directory)
    with pytest.raises(fl.InvalidArgumentError, match="there is no"):
        guest.checkpoint(tmp_path / "none")
    with pytest.raises(fl.InvalidArgumentError, match="framework is one of numpy, torch"):
        guest.checkpoint(directory, framework="jax")


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("model.gguf", b"GGUF" + bytes(64), "is no file of safetensors or torch"),
        ("model.safetensors", bytes(7), "its header would be"),
        ("pytorch_model.bin", b"no archive", "torch cannot read it"),
    ],
)
def test_files_that_cannot_be_published(
    loader: fl.FastLoader, store: MemoryStore, tmp_path: Path, file: str, content: bytes, error: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(fl.FastLoadError, match=error):
        loader.publish_checkpoint(tmp_path)
    assert not store.keys()


def test_two_files_with_one_name(loader: fl.FastLoader, store: MemoryStore, tmp_path: Path) -> None:
    for file in ("a.safetensors", "b.safetensors"):
        save_file({"w": torch.ones(3)}, tmp_path / file)
    with pytest.raises(fl.IntegrityError, match="another file holds tensor 'w' too"):
        loader.publish_checkpoint(tmp_path)
    assert not store.keys()


def test_a_name_that_is_kept_for_other_entries(loader: fl.FastLoader, tmp_path: Path) -> None:
    save_file({"__header__/x": torch.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(fl.InvalidArgumentError, match="a name that is kept"):
        loader.publish_checkpoint(tmp_path)


def test_a_pool_that_is_too_small(loader: fl.FastLoader, store: MemoryStore, directory: Path) -> None:
    store.set_faults(capacity_bytes=MIB)
    with pytest.raises(fl.ResourceExhaustedError):
        loader.publish_checkpoint(directory)
    assert not store.keys()
