"""Which files a loader reads: stand-ins for vLLM's, with the answers that its versions give."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.vllm.files_read import Checkpoint, files_read


class Loader:
    """Of 0.32.0, and by its base class of any version."""

    Source = SimpleNamespace

    def __init__(self, load_format: str = "auto") -> None:
        self.load_config = SimpleNamespace(load_format=load_format)


class Newest(Loader):
    def _prepare_weights(
        self,
        model_name_or_path: str,
        subfolder: str | None,
        revision: str | None,
        fall_back_to_pt: bool,
        allow_patterns_overrides: list[str] | None,
    ) -> tuple[str, list[str], bool, str]:
        root = Path(model_name_or_path, subfolder or "")
        found = [str(path) for each in allow_patterns_overrides or ["*.safetensors"] for path in root.glob(each)]
        if not found:
            raise RuntimeError(f"Cannot find any model weights with `{model_name_or_path}`")
        return str(root), found, True, "model.safetensors.index.json"


class Oldest(Loader):
    def _prepare_weights(
        self, model_name_or_path: str, revision: str | None, fall_back_to_pt: bool, allow_patterns_overrides: object
    ) -> tuple[str, list[str], bool]:
        return model_name_or_path, [str(Path(model_name_or_path, "pytorch_model.bin"))], False


class Streamer(Loader):
    def _prepare_weights(self, model_name_or_path: str, revision: str | None) -> list[str]:
        return [str(path) for path in Path(model_name_or_path).glob("*.safetensors")]


class Sharded(Loader):
    pattern = None

    def _prepare_weights(self, model_name_or_path: str, revision: str | None) -> str:
        return model_name_or_path


def config(model: object, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(model=str(model), revision=None, **more)


def put(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(name.encode())
    return directory


def names(loader: Any, directory: Path, model: Any = None, **more: Any) -> list[str]:
    return [file.name for file in files_read(loader, model, config(directory, **more))]


def test_what_the_loader_says_is_read_and_the_index(tmp_path: Path) -> None:
    put(tmp_path, "a.safetensors", "b.bin", "model.safetensors.index.json", "original/c.safetensors")
    assert names(Newest(), tmp_path) == ["a.safetensors", "model.safetensors.index.json"]
    assert names(Streamer(), tmp_path) == ["a.safetensors", "model.safetensors.index.json"]
    assert names(Oldest(), tmp_path) == ["pytorch_model.bin"]


def test_patterns_and_parts_of_the_model_itself(tmp_path: Path) -> None:
    """As a model of several towers names them: a directory below, or another repository."""
    put(tmp_path / "main", "model.safetensors", "sparse.pt", "tower/model.safetensors")
    put(tmp_path / "other", "model.safetensors")
    parts = [
        SimpleNamespace(model_or_path=tmp_path / "main", revision=None, allow_patterns_overrides=["*.pt"]),
        SimpleNamespace(model_or_path=tmp_path / "main", revision=None, subfolder="tower"),
        SimpleNamespace(model_or_path=tmp_path / "other", revision="v2"),
    ]
    model = SimpleNamespace(secondary_weights=parts)
    found = ["model.safetensors", "1/sparse.pt", "2/model.safetensors", "3/model.safetensors"]
    assert names(Newest(), tmp_path / "main", model) == found
    nested = SimpleNamespace(allow_patterns_overrides=["t*/*.safetensors"])
    assert names(Newest(), tmp_path / "main", nested) == ["tower/model.safetensors"]


def test_shards_of_ranks(tmp_path: Path) -> None:
    shards = ["model-rank-0-part-0.safetensors", "model-rank-1-part-0.safetensors"]
    put(tmp_path, *shards, "model.safetensors")
    assert names(Sharded(), tmp_path) == shards
    loader = Sharded()
    loader.pattern = "mine-{rank}-{part}.st"  # type: ignore[assignment]
    put(tmp_path, "mine-0-1.st")
    assert names(loader, tmp_path) == ["mine-0-1.st"]


def test_formats_that_read_elsewhere_than_the_models_config(tmp_path: Path) -> None:
    put(tmp_path / "weights", "a.safetensors")
    assert names(Streamer(), tmp_path / "config", model_weights=tmp_path / "weights") == ["a.safetensors"]
    with pytest.raises(InvalidArgumentError, match=r"object storage.*set fingerprint"):
        names(Streamer(), tmp_path, model_weights="s3://bucket/model")


def test_what_vllm_has_converted_is_read(tmp_path: Path) -> None:
    loader = Oldest("npcache")
    put(tmp_path, "pytorch_model.bin")
    assert names(loader, tmp_path) == ["pytorch_model.bin"]
    put(tmp_path, "np/layer.weight")
    (tmp_path / "np" / "weight_names.json").write_text(json.dumps(["layer.weight"]))
    assert names(loader, tmp_path) == ["np/layer.weight", "np/weight_names.json"]


def test_a_loader_that_says_nothing(tmp_path: Path) -> None:
    put(tmp_path, "model.gguf")
    assert names(Loader(), tmp_path) == ["model.gguf"]
    assert names(Loader(), tmp_path / "model.gguf") == ["model.gguf"]


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Cannot find any model weights.*set fingerprint"):
        names(Newest(), tmp_path)


def test_what_a_checkpoint_is_called(tmp_path: Path) -> None:
    put(tmp_path, "a.safetensors")

    def called(fingerprint: str) -> str:
        return Checkpoint.of(fingerprint, Newest(), None, config(tmp_path), deadline_s=5).text

    assert called("v1") == "given:v1"
    assert called("files").startswith("files:")
    assert called("files:full").startswith("sha256:")


def test_files_that_change_while_they_are_read(tmp_path: Path) -> None:
    loader, of = Newest(), config(put(tmp_path, "a.safetensors", "b.safetensors"))
    checkpoint = Checkpoint.of("files", loader, None, of, deadline_s=5)
    assert checkpoint.changed(loader, None, of) == []
    put(tmp_path, "c.safetensors")
    assert checkpoint.changed(loader, None, of) == ["c.safetensors"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert "Cannot find" in checkpoint.changed(loader, None, of)[0]
    assert Checkpoint.of("v1", loader, None, of, deadline_s=5).changed(loader, None, of) == []
