"""Checkpoints that change or are damaged on their way: nothing wrong is published, read or trusted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.checkpoints.read_directory import compare
from yr_fastload_native.checkpoints.safetensors_files import scan_directory
from yr_fastload_native.loader import checkpoint as loader_checkpoint
from yr_fastload_native.loading.checkpoint_reader import CheckpointReader
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until
from .published_files import as_bytes, assert_right, chunk_keys, weights

MIB = 1 << 20
Opener = Callable[..., fl.FastLoader]


def test_files_that_change_while_they_are_read(loader: fl.FastLoader, store: MemoryStore, directory: Path) -> None:
    def change(done: int, total: int) -> None:
        with (directory / "model-1.safetensors").open("r+b") as file:
            file.seek(-100, 2)
            file.write(bytes(range(1, 11)))

    with pytest.raises(fl.IntegrityError, match="was written to or replaced meanwhile"):
        loader.publish_checkpoint(directory, progress=change)
    assert not store.keys()


def test_files_that_become_shorter_while_they_are_read(
    loader: fl.FastLoader, store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would end the process if they were read where they are mapped."""
    real = _core.publish_chunks

    def shortened(*args: Any, **kwargs: Any) -> Any:
        os.truncate(directory / "model-1.safetensors", 4096)
        return real(*args, **kwargs)

    monkeypatch.setattr(_core, "publish_chunks", shortened)
    with pytest.raises(fl.IntegrityError, match=r"model-1\.safetensors: it became shorter"):
        loader.publish_checkpoint(directory)
    assert not store.keys()


def test_bytes_that_are_damaged_in_the_pool(loader: fl.FastLoader, store: MemoryStore, directory: Path) -> None:
    """What was copied is read back before anybody can see it."""

    def damage(done: int, total: int) -> None:
        store.set_faults(corrupt=chunk_keys(store)[:1])

    with pytest.raises(fl.IntegrityError, match="does not match its digest"):
        loader.publish_checkpoint(directory, progress=damage)
    assert not store.keys()


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_files_that_change_while_they_are_published(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, how: str
) -> None:
    publication = loader.publish_checkpoint(directory)
    identity = dict(publication.identity)
    opened = guest.checkpoint(identity, framework="torch")
    file = directory / "model-2.safetensors"
    if how == "written":
        with file.open("r+b") as opened_file:
            opened_file.seek(-1, 2)
            opened_file.write(b"\x01")
    elif how == "replaced":
        shutil.copy(file, directory / "new")
        (directory / "new").rename(file)
    else:
        file.unlink()
    assert wait_until(lambda: publication.state == "failed")
    assert "written to or replaced" in publication.failure
    assert wait_until(lambda: not guest.is_published(identity))
    assert ("model-2" if how != "removed" else "index") in publication.failure
    with pytest.raises(fl.NotPublishedError):
        guest.checkpoint(identity)
    with pytest.raises(fl.PartialTransferError):
        opened["embed"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [("corrupt", fl.IntegrityError), ("truncated", fl.IntegrityError), ("missing", fl.PartialTransferError)],
)
def test_a_chunk_that_is_damaged_on_arrival(
    open_loader: Opener,
    guest: fl.FastLoader,
    store: MemoryStore,
    directory: Path,
    elsewhere: Callable[[], None],
    fault: str,
    error: type[fl.FastLoadError],
) -> None:
    publication = open_loader(max_blobs=1).publish_checkpoint(directory)
    elsewhere()
    by_identity = guest.checkpoint(dict(publication.identity))
    chunk = by_identity._reader.entries["layers.0.weight"].chunk
    (key,) = [each for each in chunk_keys(store) if each.endswith(f"-{chunk}")]
    store.set_faults(**{fault: [key]})
    with pytest.raises(error) as caught:
        by_identity["layers.0.weight"]
    assert caught.value.failed_keys == (key,)
    assert by_identity["embed"].shape == (600, 1000)
    opened = guest.checkpoint(directory, framework="torch")
    assert_right(opened, weights())
    assert opened.from_files == ["layers.0.weight"]


def test_a_chunk_is_asked_for_again(
    loader: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publication = loader.publish_checkpoint(directory)
    opened = guest.checkpoint(dict(publication.identity), framework="torch", verify="digest")
    store.set_faults(corrupt=chunk_keys(store))
    real, asked = _core.map_chunks, []

    def mapping(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        asked.append(len(args[1]))
        store.set_faults()
        return found

    monkeypatch.setattr(_core, "map_chunks", mapping)
    assert_right(opened, weights())
    assert asked[0] > 1
    assert not opened.from_files


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "object"},
        {"dtype": "load"},
        {"dtype": "float64"},
        {"shape": (600, 1001)},
        {"shape": (600, 1000, *[1] * 31)},
        {"shape": (1 << 62, 1 << 62, 0)},
        {"strides": (1, 1)},
        {"strides": (2000, 1)},
    ],
)
def test_a_manifest_that_claims_what_is_not_there(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, changes: dict[str, Any]
) -> None:
    """Whoever can write to the worker can write it; there is no tensor here to compare it with."""
    loader.publish_checkpoint(directory)
    reader = guest.checkpoint(directory)._reader
    manifest = reader.generation.manifest
    (embed,) = [entry for entry in manifest.tensors if entry.name == "embed"]
    forged = msgspec.structs.replace(manifest, tensors=[msgspec.structs.replace(embed, **changes)])
    generation = attrs.evolve(reader.generation, manifest=forged)
    with pytest.raises(fl.IntegrityError, match="published tensor 'embed'"):
        CheckpointReader(generation, reader._plan, reader._chunks, reader._views, reader._terms)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_a_dtype_that_has_no_views(loader: fl.FastLoader, store: MemoryStore, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3, dtype=torch.complex32)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(fl.InvalidArgumentError, match="tensor 'w' has dtype complex32"):
        loader.publish_checkpoint(tmp_path)
    assert not store.keys()


def test_what_was_compared_in_this_pool_is_not_compared_again(
    loader: fl.FastLoader,
    guest: fl.FastLoader,
    directory: Path,
    elsewhere: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loader.publish_checkpoint(directory)
    real, compared = _core.digest_chunks, []

    def digests(*args: Any, **kwargs: Any) -> Any:
        compared.append(len(kwargs["chunks"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(_core, "digest_chunks", digests)

    def chunks_compared(verify: str) -> int:
        compared.clear()
        assert not compare(scan_directory(directory), guest.checkpoint(directory, verify=verify))
        return sum(compared)

    assert chunks_compared("once") == 0
    every = chunks_compared("digest")
    assert every > 1
    elsewhere()
    assert chunks_compared("once") == every


def test_a_publisher_that_goes_half_way(
    open_loader: Opener, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    """What came stays, and only what is missing is read from the files."""
    publisher = open_loader(max_blobs=1)
    publisher.publish_checkpoint(directory)
    opened = guest.checkpoint(directory, framework="torch", window=1)
    names = list(opened)
    came = {name: opened[name] for name in names[:3]}
    publisher.close()
    assert not chunk_keys(store)
    rest = {name: opened[name] for name in names[3:]}
    wanted = weights()
    for name, tensor in (came | rest).items():
        assert tensor.shape == wanted[name].shape
        assert torch.equal(as_bytes(tensor), as_bytes(wanted[name])), name
    assert set(opened.from_files) <= set(names[3:])
    assert len(opened.from_files) >= len(names) - 4  # the empty one is nowhere


def test_a_worker_that_does_not_answer_is_asked_once(
    loader: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    publication = loader.publish_checkpoint(directory)
    alone, opened = guest.checkpoint(dict(publication.identity)), guest.checkpoint(directory, framework="torch")
    store.set_faults(unreachable=True)
    with pytest.raises(fl.UnavailableError):
        alone["embed"]
    assert_right(opened, weights())
    assert set(opened.from_files) == weights().keys() - {"empty"}
    store.set_faults()


def test_files_that_changed_are_no_way_out(
    loader: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    loader.publish_checkpoint(directory)
    opened = guest.checkpoint(directory)
    store.clear()
    (directory / "model-1.safetensors").touch()
    with pytest.raises(fl.IntegrityError, match="written to or replaced meanwhile"):
        opened["embed"]


def test_other_files_with_the_same_sample(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publication = loader.publish_checkpoint(directory)
    loader.tell_files(publication, {"another.safetensors": "0" * 64})
    guest.checkpoint(directory)
    sums = {**(publication.files or {}), "model-1.safetensors": "1" * 64}
    monkeypatch.setattr(type(guest._checkpoints().kept), "keep", lambda *_: None)
    real = loader_checkpoint.TensorFiles.of

    def with_sums(path: Path, *, deadline_s: float) -> Any:
        files = real(path, deadline_s=deadline_s)
        files.read.sums.update(sums)
        return files

    monkeypatch.setattr(loader_checkpoint.TensorFiles, "of", with_sums)
    with pytest.raises(fl.LayoutMismatchError, match="are not those that were published"):
        guest.checkpoint(directory)


def test_a_trusted_checkpoint(open_loader: Opener, guest: fl.FastLoader, directory: Path) -> None:
    publication = open_loader(publish_sha256=True).publish_checkpoint(directory)
    digest = guest.checkpoint_digest(directory)
    assert publication.digest == digest
    for framework in ("torch", "numpy"):
        opened = guest.checkpoint(dict(publication.identity), framework=framework, trusted_digests=digest)
        assert not compare(scan_directory(directory), guest.checkpoint(directory, trusted_digests=[digest, "0" * 64]))
        assert opened.keys() == weights().keys()
    with pytest.raises(fl.IntegrityError, match="none of the 1 in trusted_digests"):
        guest.checkpoint(directory, trusted_digests="0" * 64)
    with pytest.raises(fl.IntegrityError, match="none of the 1 in trusted_digests"):
        open_loader(hold=False, trusted_digests="0" * 64).checkpoint(directory)


def test_a_publisher_that_tells_no_sums_is_not_trusted(
    loader: fl.FastLoader, guest: fl.FastLoader, directory: Path
) -> None:
    loader.publish_checkpoint(directory)
    with pytest.raises(fl.IntegrityError, match="does not tell the SHA-256"):
        guest.checkpoint(directory, trusted_digests=guest.checkpoint_digest(directory))


def test_bytes_that_are_not_the_trusted_ones(
    open_loader: Opener, guest: fl.FastLoader, store: MemoryStore, directory: Path
) -> None:
    """Whoever may write to the worker's memory changes them, in the pool in which the publisher compared them."""
    publication = open_loader(publish_sha256=True, max_blobs=1).publish_checkpoint(directory)
    digest = guest.checkpoint_digest(directory)
    alone = guest.checkpoint(dict(publication.identity), trusted_digests=digest)
    opened = guest.checkpoint(directory, framework="torch", trusted_digests=digest)
    chunk = alone._reader.entries["layers.0.weight"].chunk
    store.set_faults(corrupt=[each for each in chunk_keys(store) if each.endswith(f"-{chunk}")])
    with pytest.raises(fl.IntegrityError, match=r"'layers\.0\.weight' is not the trusted one by SHA-256"):
        alone["layers.0.weight"]
    assert_right(opened, weights())
    assert opened.from_files == ["layers.0.weight"]


def test_tied_tensors_are_trusted(open_loader: Opener, guest: fl.FastLoader, tmp_path: Path) -> None:
    tensors = {"a": torch.rand(40, 30), "turned": torch.rand(20, 10).t()}
    tensors["tied"], tensors["part"] = tensors["a"], tensors["a"][2:4]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    open_loader(publish_sha256=True).publish_checkpoint(tmp_path)
    opened = guest.checkpoint(tmp_path, framework="torch", trusted_digests=guest.checkpoint_digest(tmp_path))
    assert all(torch.equal(opened[name], tensor) for name, tensor in tensors.items())
    assert not opened.from_files
