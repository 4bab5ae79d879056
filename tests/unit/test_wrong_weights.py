"""Two checkpoints that differ where no sample looks: a stand-in for vLLM, with the real loader."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.unit.toy_engine import FileLoader, run

import yr_fastload_native as fl
from yr_fastload_native.checkpoints import known_digests
from yr_fastload_native.checkpoints import sample as sampling
from yr_fastload_native.vllm import session, verifying

WORDS = 1_000_000

Instance = Callable[[Path], tuple[torch.Tensor, dict[str, Any]]]


@pytest.fixture
def instance(
    open_loader: Callable[..., fl.FastLoader],
    tmp_path: Path,
    identity: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Instance:
    """Loads a checkpoint as one more instance would: its weights, and what it says of its load."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sampling, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(sampling, "_LEAST_WHOLE_BYTES", 0)
    monkeypatch.setattr(verifying, "_POLL_S", 0.01)
    monkeypatch.setattr(session, "_outcomes", [])
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 3_000_000_000)  # files are not only just written
    models: list[Any] = []  # what is published of one that is gone goes too

    def load(path: Path) -> tuple[torch.Tensor, dict[str, Any]]:
        monkeypatch.setattr(known_digests, "_here", {})  # another process
        settings = {"model": str(path.parent), "fingerprint": "files"}
        model, said = run(monkeypatch, open_loader(), FileLoader(path, WORDS), identity=identity, **settings)
        models.append(model)
        assert verifying.wait(20)
        return model.weight.detach(), said

    return load


def happened(event: str) -> list[dict[str, Any]]:
    return [each for each in session.outcomes() if each["event"] == event]


def changed(path: Path, to: Path) -> Path:
    """The same file but for one weight."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + size])["weight"]["data_offsets"]
    data[8 + size + begin + 4 * (WORDS * 5 // 11) + 3] ^= 0x40
    to.parent.mkdir()
    to.write_bytes(data)
    return to


def test_they_are_told_apart(instance: Instance, tmp_path: Path) -> None:
    """At the first exchange afterwards, with a line that cannot be overlooked; from then on at once."""
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.arange(WORDS, dtype=np.float32)}, path)
    other = changed(path, tmp_path / "other" / path.name)

    right, said = instance(path)
    assert said["fallback"] == "NOT_PUBLISHED"
    wrong, said = instance(other)
    assert said["fallback"] is None  # alike in all that was read of them
    assert torch.equal(wrong, right)
    assert [each["files"] for each in happened("wrong weights")] == [[path.name]]

    weights, said = instance(other)
    assert said["fallback"] == "NOT_PUBLISHED"
    assert not torch.equal(weights, right)
    for file, expected in ((other, weights), (path, right)):  # neither has pushed the other out
        pulled, said = instance(file)
        assert said["fallback"] is None
        assert torch.equal(pulled, expected)
    assert len(happened("wrong weights")) == 1
    assert len(happened("compared files")) == 2
