"""Instances elsewhere, with nothing on their disk: they load what the first one compiled, and pull all of its model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_until

import yr_fastload_native as fl
from yr_fastload_native.settings import ExchangeConfig
from yr_fastload_native.vllm.model_files import take_model

pytestmark = [
    pytest.mark.worker,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm.envs") is None
        or "VLLM_FORCE_AOT_LOAD" not in Path(str(importlib.util.find_spec("vllm.envs").origin)).read_text(),
        reason="this version of vLLM keeps no compiled artifacts that can be asked for",
    ),
]


def test_others_compile_nothing_and_need_no_model(
    make: Callable[..., Path], start: Callable[..., Any], worker: str, tmp_path: Path
) -> None:
    model = make("qwen2", seed=25)

    def on_machine(name: str, model: Path, **environment: str) -> Any:
        """An instance with cache directories of its own."""
        return start(model, environment={"VLLM_CACHE_ROOT": str(tmp_path / name), **environment}, enforce_eager=False)

    first = on_machine("first", model)
    assert first.events("caches")[0]["why"] == "NOT_PUBLISHED"
    assert wait_until(lambda: bool(first.events("published caches") and first.events("published model")))

    # Their start fails if there is no artifact that loads.
    second = on_machine("second", model, VLLM_FORCE_AOT_LOAD="1")
    (told,) = second.events("caches")
    assert told["why"] is None
    assert told["written"] == first.events("published caches")[0]["files"] > 0
    assert second.tokens == first.tokens

    model.rename(tmp_path / "gone")
    with fl.FastLoader(fl.Config(worker=worker, hold=False)) as loader:
        directory = take_model(loader, ExchangeConfig(), str(model), cache_root=tmp_path / "third", code=False)
    assert not list(directory.rglob("*.safetensors"))
    third = on_machine("third", directory, VLLM_FORCE_AOT_LOAD="1")
    assert (third.loaded["fallback"], third.loaded["cold_load_s"]) == (None, None)
    assert third.tokens == first.tokens


@pytest.mark.long
def test_each_rank_takes_its_own(make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path) -> None:
    model = make("qwen2", seed=28)

    def on_machine(name: str, **environment: str) -> Any:
        caches = {"VLLM_CACHE_ROOT": str(tmp_path / name), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        return start(
            model, environment={**caches, **environment}, role="forked", enforce_eager=False, tensor_parallel_size=2
        )

    first = on_machine("first")
    assert wait_until(lambda: len(first.events("published caches")) == 2)
    second = on_machine("second", VLLM_FORCE_AOT_LOAD="1")
    assert [each["why"] for each in second.events("caches")] == [None, None]
    assert second.tokens == first.tokens
