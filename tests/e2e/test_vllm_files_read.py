"""What is fingerprinted is what vLLM's own loader reads: its class, and no engine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from yr_fastload_native.vllm.compat import cold_loader
from yr_fastload_native.vllm.files_read import Checkpoint

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's imports warn


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two sets of shards with an index that picks one, and the same in torch's format."""
    for shard in ("a", "b"):
        save_file({"weight": np.full(4, ord(shard), np.float32)}, tmp_path / f"model-{shard}.safetensors")
    (tmp_path / "model.pt").write_bytes(b"old")
    (tmp_path / "stray.safetensors").write_bytes(b"torn")
    point(tmp_path, "model-a.safetensors")
    return tmp_path


def point(directory: Path, shard: str) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shard}}))


def loader_of(load_format: str) -> Any:
    from vllm.config import LoadConfig

    return cold_loader(LoadConfig(), load_format, {})


def called(directory: Path, load_format: str) -> str:
    of = SimpleNamespace(model=str(directory), revision=None)
    return Checkpoint.of("files", loader_of(load_format), None, of, deadline_s=30).text


def test_an_index_that_is_pointed_elsewhere(checkpoint: Path) -> None:
    before = called(checkpoint, "auto")
    (checkpoint / "stray.safetensors").write_bytes(b"torn otherwise")
    (checkpoint / "model-b.safetensors").write_bytes(b"nobody reads it")
    assert called(checkpoint, "auto") == before
    save_file({"weight": np.zeros(4, np.float32)}, checkpoint / "model-b.safetensors")
    point(checkpoint, "model-b.safetensors")
    assert called(checkpoint, "auto") != before


def test_only_what_the_load_format_reads(checkpoint: Path) -> None:
    before = {load_format: called(checkpoint, load_format) for load_format in ("auto", "pt")}
    (checkpoint / "model.pt").write_bytes(b"new")
    assert called(checkpoint, "auto") == before["auto"]
    assert called(checkpoint, "pt") != before["pt"]
