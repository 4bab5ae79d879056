"""The small files of a model: published where its directory is, put in place where it is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import yr_fastload_native as fl
from yr_fastload_native.errors import FastLoadError, IntegrityError, NotPublishedError
from yr_fastload_native.files.exchange import publish_files
from yr_fastload_native.files.file_set import File
from yr_fastload_native.settings import ExchangeConfig
from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.files_read import Checkpoint
from yr_fastload_native.vllm.model_files import (
    described,
    description,
    is_directory_elsewhere,
    publish_model,
    take_model,
)

CHECKPOINT = "files:0123"
CONFIG = {"architectures": ["ToyForCausalLM"]}
INFO = "vllm-model_executor-models-toy-ToyForCausalLM.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "there" / "toy-1B"
    (root / "1_Pooling").mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "1_Pooling" / "config.json").write_text("{}")
    (root / "chat_template.jinja").write_text("{{ messages }}")
    (root / "modeling_toy.py").write_text("run = True")
    (root / "model.safetensors").write_bytes(bytes(1000))
    (root / "pytorch_model.bin").write_bytes(bytes(1000))
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    blob.write_text("{}")
    (root / "tokenizer.json").symlink_to(blob)  # as in Hugging Face's cache
    return root


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    infos = tmp_path / "vllm" / "modelinfos"
    infos.mkdir(parents=True)
    (infos / INFO).write_text('{"hash": ""}')
    (infos / INFO.replace("Toy", "Other")).write_text('{"hash": ""}')
    return infos.parent


@pytest.fixture
def publish(loader: fl.FastLoader, model: Path, caches: Path) -> Callable[..., int]:
    def published(apart: dict[str, str] | None = None, **more: Any) -> int:
        told = {"architectures": CONFIG["architectures"], "cache_root": caches, "code": False, **more}
        return publish_model(loader, description(str(model), CHECKPOINT, apart or {}), **told)

    return published


@pytest.fixture
def take(
    open_loader: Callable[..., fl.FastLoader], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    def taken(*, code: bool = False, **settings: Any) -> Path:
        """On another machine."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
        caches = tmp_path / "here" / "vllm"
        return take_model(
            open_loader(hold=False, **settings), ExchangeConfig(), str(model), cache_root=caches, code=code
        )

    return taken


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_all_but_weights_and_code_is_taken(
    publish: Callable[..., int], take: Callable[..., Path], model: Path, tmp_path: Path
) -> None:
    assert publish() == 5
    directory = take()
    small = {"config.json", "1_Pooling/config.json", "chat_template.jinja", "tokenizer.json"}
    assert names(directory) == {*small, "yr-fastload.json"}
    assert all((directory / each).read_bytes() == (model / each).read_bytes() for each in small)
    assert directory.name == "toy-1B"
    about = described(str(directory))
    assert about is not None
    assert (about.model, about.name, about.checkpoint) == (str(model), "toy-1B", CHECKPOINT)
    assert names(tmp_path / "here" / "vllm") == {f"modelinfos/{INFO}"}
    assert take() == directory  # twice is as once


def test_who_has_taken_it_publishes_the_same(
    publish: Callable[..., int], take: Callable[..., Path], open_loader: Callable[..., fl.FastLoader], caches: Path
) -> None:
    publish()
    directory = take()
    other = open_loader()
    about = description(str(directory), "files:?", {})
    assert publish_model(other, about, architectures=[], cache_root=caches, code=False) == 5
    assert take() == directory
    other.close()
    assert take() == directory, "it has left, and taken nothing from the first one"


def test_code_is_for_those_who_trust_it(publish: Callable[..., int], take: Callable[..., Path]) -> None:
    publish(code=True)
    with pytest.raises(NotPublishedError):
        take()
    assert "modeling_toy.py" in names(take(code=True))
    publish(code=False)
    assert "modeling_toy.py" not in names(take())


def test_code_of_strangers_is_not_taken(
    publish: Callable[..., int], take: Callable[..., Path], short_tmp: Path, tmp_path: Path
) -> None:
    """What is data is, as weights would be."""
    publish(code=True)
    with pytest.raises(IntegrityError, match="no process of this user"):
        take(code=True, worker_home=str(short_tmp / "home"))
    publish()
    assert names(take(worker_home=str(short_tmp / "home")))
    assert not names(tmp_path / "here" / "vllm")


def test_code_that_pretends_to_be_none(loader: fl.FastLoader, take: Callable[..., Path], model: Path) -> None:
    about = json.dumps({"model": str(model), "name": "toy", "checkpoint": CHECKPOINT, "format": 1}).encode()
    files = [File("model/x.py", 0o600, b"run"), File("model/yr-fastload.json", 0o600, about)]
    publish_files(loader, {"kind": "model files", "model": str(model), "code": False}, files)
    assert names(take()) == {"yr-fastload.json"}


@pytest.mark.parametrize(
    "about",
    [
        b"",
        b"{}",
        b'{"model": "/m", "name": "../x", "checkpoint": "files:"}',
        b'{"model": "/m", "name": "a/b", "checkpoint": ""}',
    ],
)
def test_files_that_do_not_say_what_they_are(
    loader: fl.FastLoader, take: Callable[..., Path], model: Path, tmp_path: Path, about: bytes
) -> None:
    files = [File("model/yr-fastload.json", 0o600, about)]
    publish_files(loader, {"kind": "model files", "model": str(model), "code": False}, files)
    with pytest.raises(IntegrityError):
        take()
    assert not names(tmp_path / "here")


def test_a_directory_in_which_something_was_changed(publish: Callable[..., int], take: Callable[..., Path]) -> None:
    publish()
    path = take() / "config.json"
    path.write_bytes(path.read_bytes().replace(b"Toy", b"Top"))
    with pytest.raises(IntegrityError, match=r"config\.json is not what was put there; remove"):
        take()


def test_nothing_is_taken_that_nobody_publishes(take: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FastLoadError):
        take()
    assert not names(tmp_path / "here")


def test_a_model_that_is_no_directory_is_not_published(loader: fl.FastLoader, caches: Path) -> None:
    about = description("org/toy", "", {})
    assert publish_model(loader, about, architectures=[], cache_root=caches, code=False) == 0


def test_what_is_elsewhere(model: Path) -> None:
    assert not is_directory_elsewhere(str(model))
    assert is_directory_elsewhere(str(model.parent / "another"))
    assert not is_directory_elsewhere("org/toy")


def test_weights_are_those_that_were_read_there(publish: Callable[..., int], take: Callable[..., Path]) -> None:
    publish({"sums": "4567"})
    config = SimpleNamespace(model=str(take()))
    there = Checkpoint(CHECKPOINT, apart={"sums": "4567"})  # as other files with the same sample have others
    assert Checkpoint.of("files", None, None, config, deadline_s=1) == there
    assert Checkpoint.of("v1", None, None, config, deadline_s=1) == Checkpoint("given:v1")


def test_nobody_else_is_believed_what_a_directory_is_of(model: Path) -> None:
    """Or a downloaded model could have other weights pulled."""
    (model / "yr-fastload.json").write_text(json.dumps({"model": "/m", "name": "m", "checkpoint": CHECKPOINT}))
    assert described(str(model)) is None


def test_what_is_compiled_depends_on_where_the_model_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class ModelConfig:
        model = "/here"

        def compute_hash(self) -> str:
            if self.model == "/broken":
                raise ValueError(self.model)
            return f"hash of {self.model}"

    module: Any = ModuleType("vllm.config")
    module.ModelConfig = ModelConfig
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    monkeypatch.setitem(sys.modules, "vllm.config", module)
    for _ in range(2):
        compat.hash_models_as({"/here": "/there"}.get)
    config = ModelConfig()
    assert (config.compute_hash(), config.model) == ("hash of /there", "/here")
    config.model = "/another"
    assert config.compute_hash() == "hash of /another"
    config.model = "/broken"
    with pytest.raises(ValueError, match="broken"):
        config.compute_hash()
    assert config.model == "/broken"
