"""One load of a stand-in for vLLM, with a stand-in for the loader of this package: no engine, no worker."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from yr_fastload_native.checkpoints.sums import differing
from yr_fastload_native.errors import NotPublishedError, UnavailableError
from yr_fastload_native.vllm import compat, exchange, session
from yr_fastload_native.vllm.settings import Settings


class Fast:
    """A `FastLoader` of which every wait is the test's, and nothing is published by anybody else."""

    def __init__(self) -> None:
        self.others: dict[str, str] = {}  # files that somebody else has read
        self.meanwhile: Callable[[], None] = lambda: None
        self.published: list[Mapping[str, Any]] = []
        self.released = 0
        self.config = SimpleNamespace(publish_deadline_s=10.0)

    def wait_for_publisher(self, identity: Mapping[str, Any], *, timeout_s: float) -> None:
        self.meanwhile()
        if self.others and "sums" not in identity:
            return
        raise NotPublishedError("nobody does", op="load")

    def files(self, identity: Mapping[str, Any]) -> dict[str, str]:
        return {} if "sums" in identity else self.others

    def identities(self, **_: Any) -> list[dict[str, Any]]:
        return []

    def load(self, model: Any, identity: Mapping[str, Any], *, files: Mapping[str, str]) -> Any:
        assert not differing(files, self.others)
        raise UnavailableError("it went", op="load")

    def release(self, identity: Mapping[str, Any]) -> None:
        self.released += 1

    def digests(self, model: Any) -> dict[str, tuple[int, ...]]:
        return {}

    def publish(self, model: Any, identity: Mapping[str, Any], **_: Any) -> Any:
        self.published.append(identity)
        return SimpleNamespace(digest=None, bytes=0, seconds=0.0, wait_settled=lambda _: True, by_reference=False)

    def publication(self, identity: Mapping[str, Any]) -> None:
        return None


class Loader:
    """vLLM's, with one file to read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.load_config = SimpleNamespace(load_format="safetensors")

    def _prepare_weights(self, model_name_or_path: str, revision: str | None) -> list[str]:
        return [str(self.path)]

    def load_weights(self, model: Any, model_config: Any) -> None:
        model.weight.data.copy_(torch.from_numpy(load_file(self.path)["weight"]))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Fast:
    made = Fast()
    monkeypatch.setattr(session, "loader_of", lambda config: made)
    monkeypatch.setattr(compat, "version", lambda: "0.32.0")
    monkeypatch.setattr(exchange, "identity_of", lambda call, *, checkpoint, **_: {"checkpoint": checkpoint})
    return made


def write(path: Path, value: float) -> None:
    save_file({"weight": np.full(4, value, np.float32)}, path)


def load(path: Path) -> list[float]:
    """The weights of a model that is loaded."""
    loader = Loader(path)
    model_config = SimpleNamespace(model=str(path.parent), revision=None)
    call = compat.Call(SimpleNamespace(compilation_config=None, model_config=model_config), model_config, "")
    settings = Settings.of({"publish": "inline", "fingerprint": "files"})

    def load_model() -> Any:
        model = torch.nn.Module()
        model.weight = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
        loader.load_weights(model, model_config)
        return model

    weights: list[float] = (
        exchange.Exchange(loader, loader, call, settings, "safetensors").run(load_model).weight.tolist()
    )
    return weights


def test_what_was_read_is_published(fast: Fast, tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", 1)
    assert load(tmp_path / "model.safetensors") == [1] * 4
    assert len(fast.published) == 1


def test_a_file_that_is_replaced_before_it_is_read_is_not_published(
    fast: Fast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under its old name others would pull the new weights."""
    path = tmp_path / "model.safetensors"
    write(path, 1)

    def replace() -> None:
        write(tmp_path / "new", 2)
        (tmp_path / "new").replace(path)

    fast.meanwhile = replace
    with caplog.at_level(logging.WARNING):
        assert load(path) == [2] * 4
    assert not fast.published
    assert fast.released
    assert "not published: model.safetensors changed while the weights were read" in caplog.text


def test_what_others_read_from_other_files_is_passed_by(fast: Fast, tmp_path: Path) -> None:
    """Though both have one fingerprint: neither pushes the other out."""
    path = tmp_path / "model.safetensors"
    write(path, 1)
    fast.others = {path.name: "0" * 64}
    assert load(path) == [1] * 4
    (identity,) = fast.published
    assert identity["sums"]
    fast.others = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert load(path) == [1] * 4
    assert "sums" not in fast.published[1]
