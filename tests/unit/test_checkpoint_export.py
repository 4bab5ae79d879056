"""Files of a published checkpoint are written again byte for byte, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.catalogue.checkpoint import FILE, HEADER
from yr_fastload_native.checkpoints.synthetic import make_qwen2
from yr_fastload_native.loading.export import export


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "config.json"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return make_qwen2(tmp_path / "qwen2", size_mb=2)


@pytest.fixture
def published(loader: fl.FastLoader, guest: fl.FastLoader, directory: Path) -> fl.PublishedCheckpoint:
    loader.publish_checkpoint(directory)
    return guest.checkpoint(directory)


def test_files_are_the_same(published: fl.PublishedCheckpoint, directory: Path, tmp_path: Path) -> None:
    wanted = contents(directory)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in wanted.items()}
    some = sorted(sums)[0]
    written = export(published, tmp_path / "again", {some: sums[some]})
    assert contents(tmp_path / "again") == wanted
    assert {each.name: each.sha256 for each in written} == sums
    assert {each.name: each.bytes for each in written} == {name: len(content) for name, content in wanted.items()}
    assert [each.name for each in written if each.compared] == [some]


def test_another_sum_writes_nothing(published: fl.PublishedCheckpoint, directory: Path, tmp_path: Path) -> None:
    name = next(name for name in contents(directory) if name.endswith(".safetensors"))
    with pytest.raises(fl.IntegrityError, match="and its publisher read"):
        export(published, tmp_path / "again", {name: "0" * 64})
    assert [path.name for path in tmp_path.iterdir()] == ["qwen2"]


def test_a_directory_that_is_in_use(published: fl.PublishedCheckpoint, directory: Path, tmp_path: Path) -> None:
    with pytest.raises(fl.InvalidArgumentError, match="is not an empty directory"):
        export(published, directory, {})
    (tmp_path / "file").touch()
    with pytest.raises(fl.InvalidArgumentError, match="cannot be written"):
        export(published, tmp_path / "file" / "below", {})
    (tmp_path / "empty").mkdir()
    assert export(published, tmp_path / "empty", {})


def test_torchs_files_are_not_kept(loader: fl.FastLoader, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    loader.publish_checkpoint(tmp_path)
    with pytest.raises(fl.InvalidArgumentError, match="only the tensors are kept"):
        export(loader.checkpoint(tmp_path), tmp_path / "again", {})


class Forged(Mapping[str, Any]):
    """What somebody published who wants files to be written that are none of a checkpoint's."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    def with_entries(self) -> Forged:
        return self

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Any:
        return (name for name in self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def header(entries: object) -> np.ndarray[Any, Any]:
    text = json.dumps(entries).encode()
    return np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8)


ONE = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ({HEADER + "../x.safetensors": header({})}, "it is no name of a file"),
        ({HEADER + "x.safetensors": header({}), FILE + "/etc/x": np.zeros(1, np.uint8)}, "it is no name of a file"),
        ({HEADER + "x.safetensors": header([])}, "its header is none"),
        ({HEADER + "x.safetensors": np.zeros(3, np.uint8)}, "its header is none"),
        ({HEADER + "x.safetensors": header(ONE)}, "tensor 'w' was not published"),
        ({HEADER + "x.safetensors": header(ONE), "w": np.zeros(3, np.float32)}, "belong to no tensor"),
    ],
)
def test_hostile_entries(tmp_path: Path, entries: dict[str, Any], error: str) -> None:
    with pytest.raises(fl.IntegrityError, match=error):
        export(Forged(entries), tmp_path / "below" / "again", {})  # type: ignore[arg-type]
    assert not list((tmp_path / "below").iterdir())
