"""Which instances of vLLM share weights: what is part of an identity, and what is only said about it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.vllm import compat, identity
from yr_fastload_native.vllm.as_made import AsMade
from yr_fastload_native.vllm.process_wide import process_wide
from yr_fastload_native.vllm.weights import exchanged_tensors

RANKS = dict.fromkeys(("tp", "pp", "dp", "ep"), (0, 1))
Digest = Callable[..., str]


class Config:
    """As of transformers."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(architectures=["Toy"], max_position_embeddings=32, **fields)

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(vars(self))


class Rotary(torch.nn.Module):
    def __init__(self, positions: int, base: float = 10_000.0) -> None:
        super().__init__()
        table = torch.outer(torch.arange(positions), base ** -torch.linspace(0, 1, 4))
        self.register_buffer("cos_sin_cache", table.cos(), persistent=False)


class Toy(torch.nn.Module):
    """Two layers that share a table, and a head unless it is for embeddings."""

    def __init__(self, positions: int = 32, *, base: float = 10_000.0, head: bool = True, tied: bool = False) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(8, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
        rotary = Rotary(positions, base)
        for layer in self.layers:
            layer.rotary = rotary
        if head:
            self.head = torch.nn.Linear(4, 8, bias=False)
        if tied:
            self.head.weight = self.embed.weight


class OtherToy(Toy):
    """Reads its files in another way."""


def digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(hashlib.sha256(tensor.numpy().tobytes()).digest()) for name, tensor in tensors.items()}


def as_made(model: torch.nn.Module) -> AsMade:
    return AsMade.of(model, exchanged_tensors(model, process_wide(model)), digests)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "version", lambda: "0.32.0")
    monkeypatch.setattr(compat, "platform", lambda: "cpu:CpuPlatform")
    monkeypatch.setattr(compat, "platform_version", lambda: "0.32.0")
    monkeypatch.setattr(compat, "ranks", lambda: RANKS)


@pytest.fixture
def fields() -> Callable[..., dict[str, Any]]:
    def of(
        model: torch.nn.Module | None = None,
        *,
        path: Path | str = "/models/tiny",
        checkpoint: str = "files:0123",
        stage: str = "raw",
        load_format: str = "auto",
        config: Config | None = None,
        cache_dtype: str = "auto",
        parallel: Any = None,
        additional: dict[str, Any] | None = None,
        read_elsewhere: tuple[str, ...] = (),
        **of_model: Any,
    ) -> dict[str, Any]:
        standard = {"revision": None, "dtype": torch.float32, "quantization": None, "max_model_len": 128}
        model_config = SimpleNamespace(model=str(path), hf_config=config or Config(), **standard | of_model)
        vllm_config = SimpleNamespace(
            model_config=model_config,
            parallel_config=parallel or SimpleNamespace(),
            cache_config=SimpleNamespace(cache_dtype=cache_dtype),
            additional_config=additional,
        )
        return identity.identity_of(
            compat.Call(vllm_config, model_config, ""),
            stage=stage,
            checkpoint=checkpoint,
            load_format=load_format,
            made=as_made(model or Toy()),
            read_elsewhere=read_elsewhere,
        )

    return of


@pytest.fixture
def digest(fields: Callable[..., dict[str, Any]]) -> Digest:
    return lambda *args, **kwargs: Identity.of(fields(*args, **kwargs), op="test").digest


def test_the_same_files_are_one_whatever_their_folder_is_called(digest: Digest) -> None:
    here = digest()
    for path in ("/elsewhere/other-name", "/hub/models--org--tiny/snapshots/0123abc", "org/tiny"):
        assert digest(path=path, revision="main") == here
    assert digest(checkpoint="files:4567") != here


def test_settings_of_plugins_count(digest: Digest) -> None:
    assert digest(additional={}) == digest()
    assert digest(additional={"eplb_config": {"dynamic_eplb": True}}) != digest()


def test_vouched_weights_have_the_same_name_online_and_offline(digest: Digest, tmp_path: Path) -> None:
    cached = tmp_path / "models--org--tiny" / "snapshots" / "0123abc"
    online = digest(path="org/tiny", checkpoint="given:v1")
    assert digest(path=cached, checkpoint="given:v1") == online
    assert digest(path=f"{cached}/", checkpoint="given:v1") == online
    assert digest(path="org/other", checkpoint="given:v1") != online
    assert digest(path="org/tiny", checkpoint="given:v1", revision="a") != online
    assert digest(path="org/tiny", checkpoint="given:v2") != online
    in_storage = digest(path="/tmp/1", model_weights="s3://bucket/tiny", checkpoint="given:v1")
    assert digest(path="/tmp/2", model_weights="s3://bucket/tiny", checkpoint="given:v1") == in_storage
    assert digest(path="/tmp/1", model_weights="s3://bucket/other", checkpoint="given:v1") != in_storage


def test_settings_that_change_no_tensor_are_only_shown(digest: Digest, fields: Callable[..., dict[str, Any]]) -> None:
    mine = digest()
    assert digest(max_model_len=256) == mine
    assert digest(cache_dtype="fp8") == mine
    assert digest(runner_type="pooling", convert_type="embed") == mine
    about = fields(max_model_len=256, cache_dtype="fp8")["about"]
    assert (about["model"], about["max_model_len"], about["kv_cache_dtype"]) == ("tiny", 256, "fp8")


def test_processed_weights_depend_on_them(digest: Digest) -> None:
    assert digest(stage="final", max_model_len=256) != digest(stage="final")
    assert digest(stage="final", cache_dtype="fp8") != digest(stage="final")


def test_what_a_model_is_made_of(digest: Digest) -> None:
    mine = digest(Toy())
    assert digest(Toy()) == mine  # whatever its parameters hold before they are loaded
    others = [Toy(64), Toy(base=500.0), Toy(head=False), Toy(tied=True), OtherToy(), Toy().to(torch.float16)]
    assert len({mine, *map(digest, others)}) == 1 + len(others)


def test_memory_that_is_not_initialised_makes_no_difference() -> None:
    def made(value: float) -> AsMade:
        model = Toy()
        model.embed.weight.data.fill_(value)
        model.register_buffer("view", model.embed.weight.data[:2], persistent=False)
        model.register_buffer("statistics", torch.full((3,), value))  # loaded like a parameter
        model.register_buffer("empty", torch.empty(0), persistent=False)
        return as_made(model)

    assert made(1.0) == made(2.0)


@pytest.mark.parametrize(
    "change",
    [
        {"config": Config(rope_scaling={"factor": 2.0})},
        {"config": Config(text_config={"hidden_size": 8})},
        {"dtype": torch.bfloat16},
        {"quantization": "fp8"},
        {"read_elsewhere": ("model.safetensors:00",)},
        {"load_format": "sharded_state"},
        {"stage": "final"},
        {"parallel": SimpleNamespace(enable_expert_parallel=True)},
        {"parallel": SimpleNamespace(eplb_config=SimpleNamespace(num_redundant_experts=2))},
    ],
)
def test_what_may_change_a_byte(digest: Digest, change: dict[str, Any]) -> None:
    assert digest(**change) != digest()


def test_a_classifier_of_tokens_depends_on_who_names_them(digest: Digest) -> None:
    assert digest(tokenizer="/models/other") == digest()
    classifier = {"config": Config(classifier_from_token=["no", "yes"])}
    assert digest(**classifier, tokenizer="/models/tiny") == digest(**classifier)
    assert digest(**classifier, tokenizer="/models/other") != digest(**classifier)


@pytest.mark.parametrize(
    "change",
    [
        {"config": Config(_name_or_path="/elsewhere", transformers_version="5", _commit_hash="0123")},
        {"config": Config(auto_map={"AutoConfig": "org/name--configuration.Config"})},
        {"config": Config(max_model_len=256)},  # vLLM's own, of MiniMax M2
        {"load_format": "runai_streamer"},
        {"parallel": SimpleNamespace(eplb_config=SimpleNamespace(num_redundant_experts=0, window_size=10))},
    ],
)
def test_what_changes_none(digest: Digest, change: dict[str, Any]) -> None:
    assert digest(**change) == digest()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=8), st.data())
def test_any_computed_value_that_differs_shows(values: list[float], data: st.DataObject) -> None:
    def made(numbers: list[float]) -> AsMade:
        model = torch.nn.Module()
        model.register_buffer("table", torch.tensor(numbers), persistent=False)
        return as_made(model)

    other = list(values)
    place = data.draw(st.integers(0, len(values) - 1))
    other[place] = float(np.nextafter(np.float32(other[place]), np.float32(np.inf)))
    assert made(values) == made(list(values))
    assert made(values).computed != made(other).computed
    assert made(values).layout == made(other).layout
