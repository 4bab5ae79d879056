"""One load of a stand-in for vLLM, with a stand-in for the loader of this package: no engine, no worker."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.unit.toy_engine import Fast, FileLoader, Publication, Store, run

from yr_fastload_native.vllm import verifying

Load = Callable[..., tuple[list[float], dict[str, Any]]]


def write(path: Path, value: float) -> None:
    save_file({"weight": np.full(4, value, np.float32)}, path)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def load(store: Store, monkeypatch: pytest.MonkeyPatch) -> Load:
    """The weights of a model that an instance loads, and what is reported of it."""

    def of(path: Path, meanwhile: Callable[[], None] = lambda: None) -> tuple[list[float], dict[str, Any]]:
        fast, loader = Fast(store, meanwhile=meanwhile), FileLoader(path, 4)
        model, outcome = run(monkeypatch, fast, loader, model=str(path.parent), fingerprint="files")
        models.append(model)
        assert verifying.wait(10)
        return model.weight.tolist(), outcome

    models: list[Any] = []  # what is published of one that is gone goes too
    return of


def sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_read_is_published(store: Store, load: Load, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write(path, 1)
    assert load(path)[0] == [1] * 4
    assert store.published is not None
    assert store.published.files == {path.name: sum_of(path)}


def test_a_file_that_is_replaced_before_it_is_read_is_not_published(
    store: Store, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under its old name others would pull the new weights."""
    path = tmp_path / "model.safetensors"
    write(path, 1)

    def replace() -> None:
        write(tmp_path / "new", 2)
        (tmp_path / "new").replace(path)

    with caplog.at_level(logging.WARNING):
        assert load(path, replace)[0] == [2] * 4
    assert store.published is None
    assert not store.claimed
    assert "not published: model.safetensors changed while the weights were read" in caplog.text


def test_what_others_read_from_other_files_is_passed_by(store: Store, load: Load, tmp_path: Path) -> None:
    """Though both have one fingerprint: neither pushes the other out."""
    path = tmp_path / "model.safetensors"
    write(path, 1)
    load(path)
    ((identity, mine),) = store.by_identity.items()
    theirs = Publication(store, mine.tensors, {path.name: "0" * 64})
    store.by_identity = {identity: theirs}
    weights, said = load(path)
    assert (weights, said["fallback"]) == ([1] * 4, "NOT_PUBLISHED")
    assert len(store.by_identity) == 2
    assert store.by_identity[identity] is theirs
    theirs.files = {path.name: sum_of(path)}
    weights, said = load(path)
    assert (weights, said["fallback"]) == ([1] * 4, None)
    assert len(store.by_identity) == 2
