"""SGLang's loader, by a stand-in that has its protocol: SGLang itself is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import yr_fastload_native as fl
from yr_fastload_native.sglang import install
from yr_fastload_native.vllm import session

WEIGHTS = {"model.a": torch.arange(1000.0), "model.b": torch.ones(3, 4).bfloat16()}


def make_loader_class() -> Any:
    """``sglang.srt.model_loader.loader.DefaultModelLoader``, as far as it reads weights."""

    class DefaultModelLoader:
        def __init__(self, draft_model_idx: int | None = None) -> None:
            self.load_config = SimpleNamespace(load_format="auto", draft_model_idx=draft_model_idx)
            self.counter_before_loading_weights = 0.0
            self.files_read: list[str] = []

        def _prepare_weights(
            self, model_name_or_path: str, revision: str | None, fall_back_to_pt: bool
        ) -> tuple[str, list[str], bool]:
            return model_name_or_path, [str(path) for path in Path(model_name_or_path).glob("model*.safetensors")], True

        def _get_weights_iterator(self, source: Any) -> Iterator[tuple[str, torch.Tensor]]:
            _, files, _ = self._prepare_weights(source.model_or_path, source.revision, source.fall_back_to_pt)
            self.files_read += files
            for file in files:
                yield from ((source.prefix + name, tensor) for name, tensor in load_file(file).items())

        def _get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, torch.Tensor]]:
            primary = SimpleNamespace(
                model_or_path=model_config.model_path, revision=None, prefix="", fall_back_to_pt=True
            )
            yield from self._get_weights_iterator(primary)
            for source in getattr(model, "secondary_weights", ()):
                yield from self._get_weights_iterator(source)

    return DefaultModelLoader


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    save_file(WEIGHTS, made / "model.safetensors")
    return made


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, directory: Path, open_loader: Callable[..., fl.FastLoader]
) -> Callable[..., tuple[dict[str, torch.Tensor], list[str]]]:
    """Loads as one rank of an instance; what it got, and the files that were read for it by SGLang's own code."""
    monkeypatch.setenv("YR_FASTLOAD_PUBLISH", "inline")
    monkeypatch.setenv("YR_FASTLOAD_VERIFY_FILES", "off")
    models: list[torch.nn.Module] = []

    def loaded(
        model: torch.nn.Module | None = None, draft_model_idx: int | None = None
    ) -> tuple[dict[str, torch.Tensor], list[str]]:
        fast = open_loader()
        monkeypatch.setattr(session, "loader_of", lambda config: fast)
        loader_class = make_loader_class()
        install(loader_class)
        install(loader_class)
        loader = loader_class(draft_model_idx)
        models.append(model or torch.nn.Module())
        config = SimpleNamespace(model_path=str(directory), revision=None)
        return dict(loader._get_all_weights(config, models[-1])), loader.files_read

    return loaded


def assert_right(weights: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in WEIGHTS.items())


def test_checkpoints_are_shared(load: Callable[..., Any], guest: fl.FastLoader, directory: Path) -> None:
    for _ in range(2):
        weights, files_read = load()
        assert_right(weights)
        assert not files_read
    assert guest.checkpoint(directory).keys() == WEIGHTS.keys()


def test_parts_with_weights_of_their_own(load: Callable[..., Any], tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    save_file({"c": torch.zeros(2)}, part / "model.safetensors")
    model = torch.nn.Module()
    source = SimpleNamespace(model_or_path=str(part), revision=None, prefix="part.", fall_back_to_pt=True)
    model.secondary_weights = [source]  # type: ignore[assignment]
    weights, files_read = load(model)
    assert torch.equal(weights.pop("part.c"), torch.zeros(2))
    assert_right(weights)
    assert files_read == [str(part / "model.safetensors")]


def test_what_the_loader_filters_or_adds_is_left_to_it(
    load: Callable[..., Any], guest: fl.FastLoader, directory: Path
) -> None:
    weights, files_read = load(draft_model_idx=0)
    assert_right(weights)
    assert files_read
    save_file({"mtp": torch.zeros(2)}, directory / "mtp.safetensors")
    assert load()[1]
    with pytest.raises(fl.NotPublishedError):
        guest.checkpoint(directory)


def test_without_a_worker_files_are_read(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    store.set_faults(unreachable=True)
    weights, files_read = load()
    assert_right(weights)
    assert files_read
    store.set_faults()
