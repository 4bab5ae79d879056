"""Fingerprints of checkpoints: the same for the same files, another one for other weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from yr_fastload_native.errors import IntegrityError, InvalidArgumentError
from yr_fastload_native.fingerprint import SAMPLE_BYTES, fingerprint_files, weight_files


def checkpoint(directory: Path, seed: int = 0, tensors: int = 20, shards: int = 2) -> Path:
    directory.mkdir()
    random = np.random.default_rng(seed)
    for shard in range(shards):
        arrays = {f"layer.{shard}.{i}.weight": random.random((64, 32), np.float32) for i in range(tensors)}
        save_file(arrays, directory / f"model-{shard}.safetensors")
    return directory


def of(directory: Path) -> str:
    return fingerprint_files(weight_files(directory))


def test_the_same_files_elsewhere_have_the_same(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        os.utime(path, (1, 1))
    (tmp_path / "b" / "config.json").write_text("{}")
    assert of(first) == of(tmp_path / "b")


def test_weights_of_the_same_shapes_differ(tmp_path: Path) -> None:
    assert of(checkpoint(tmp_path / "a", seed=1)) != of(checkpoint(tmp_path / "b", seed=2))


@pytest.mark.parametrize("changed", range(0, 900, 90))
def test_one_tensor_that_was_trained_further_is_seen(tmp_path: Path, changed: int) -> None:
    """Every tensor of a file is looked at, not only some of them."""
    directory = checkpoint(tmp_path / "a", tensors=900, shards=1)
    before = of(directory)
    path = directory / "model-0.safetensors"
    data = bytearray(path.read_bytes())
    start = len(data) - 900 * 64 * 32 * 4 + changed * 64 * 32 * 4
    data[start : start + 64 * 32 * 4] = bytes(64 * 32 * 4)
    path.write_bytes(data)
    assert of(directory) != before


def test_a_renamed_shard_is_seen(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a")
    before = of(directory)
    (directory / "model-1.safetensors").rename(directory / "model-2.safetensors")
    assert of(directory) != before


def test_at_most_64_kib_of_a_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint(tmp_path / "a", tensors=3000, shards=1)
    read = []
    real = os.pread

    def pread(descriptor: int, count: int, offset: int) -> bytes:
        read.append(count)
        return real(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", pread)
    of(directory)
    assert 0 < sum(read) <= SAMPLE_BYTES


@pytest.mark.parametrize("suffix", ["bin", "pt", "gguf"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(np.random.default_rng(0).bytes(1 << 20))
    before = of(tmp_path)
    assert fingerprint_files(weight_files(path)) == before  # a file may be named itself
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert of(tmp_path) != before


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="fingerprint to a text") as caught:
        weight_files(tmp_path)
    assert caught.value.failed_keys == (str(tmp_path),)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "a")
    path = directory / "model-0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"model-0\.safetensors"):
        of(directory)
