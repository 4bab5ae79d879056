"""Instances of other layouts load from the checkpoint that one of them has published."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ..waiting import wait_until

pytestmark = pytest.mark.worker

Make = Callable[..., Path]
Start = Callable[..., Any]

SEED = 2801


def assert_from_checkpoint(instance: Any, ranks: int = 1) -> None:
    assert len(instance.events("loaded")) == ranks
    for each in instance.events("loaded"):
        assert each["checkpoint"]["from_files"] == []
        assert each["checkpoint"]["bytes"] > 0
        assert each["transport"] is None


def publications(instance: Any) -> int:
    return len(instance.events("published checkpoint"))


@pytest.mark.parametrize(
    "architecture",
    [
        "qwen2",
        pytest.param("qwen2_tied", marks=pytest.mark.long),
        pytest.param("qwen2_int8", marks=pytest.mark.long),
    ],
)
def test_one_rank_then_two(make: Make, start: Start, architecture: str) -> None:
    model = make(architecture, seed=SEED)
    first = start(model, extra={"share": "checkpoint"})
    assert wait_until(lambda: publications(first))
    second = start(model, extra={"share": "checkpoint"}, role="forked", tensor_parallel_size=2)
    assert_from_checkpoint(second, ranks=2)
    assert publications(second) == 0
    assert second.tokens == first.tokens


def test_two_ranks_read_the_disk_once(make: Make, start: Start) -> None:
    """And what is pulled by their layout is pulled, where there is that too."""
    model = make("llama", seed=SEED)
    first = start(model, extra={"share": "both"}, role="forked", tensor_parallel_size=2)
    from_disk = [each for each in first.events("loaded") if each["checkpoint"] is None]
    assert len(from_disk) == 1
    first.wait_until_published(ranks=2)
    assert wait_until(lambda: publications(first) == 1)
    second = start(model, extra={"share": "auto"})
    assert_from_checkpoint(second)
    assert publications(second) == 0
    assert second.tokens == first.tokens


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["qwen2_tied", "qwen2_int8", "qwen3_moe", "mixtral"])
def test_what_is_loaded_is_what_files_hold(make: Make, start: Start, architecture: str) -> None:
    """In one layout: between layouts, tokens of experts differ in vLLM itself."""
    model = make(architecture, seed=SEED + 2)
    plain = start(model, extra={"publish": "off"})
    assert plain.loaded["checkpoint"] is None
    shared = start(model, extra={"share": "checkpoint", "publish": "inline"})
    assert_from_checkpoint(shared)
    assert shared.tokens == plain.tokens


@pytest.mark.long
def test_torchs_files(make: Make, start: Start, tmp_path: Path) -> None:
    model = shutil.copytree(make("qwen2", seed=SEED), tmp_path / "binary")
    tensors = {}
    for file in model.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    for file in model.glob("*.index.json"):
        file.unlink()
    torch.save(tensors, model / "pytorch_model.bin")
    first = start(model, extra={"share": "checkpoint", "publish": "inline"})
    assert_from_checkpoint(first)
    second = start(model, extra={"share": "checkpoint"}, role="forked", tensor_parallel_size=2)
    assert_from_checkpoint(second, ranks=2)
    assert second.tokens == first.tokens


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_the_command_that_tries_it(make: Make) -> None:
    command = [sys.executable, "-m", "yr_fastload_native", "verify-vllm", "--model", str(make("qwen2", seed=SEED + 1))]
    done = subprocess.run(
        [*command, "--tp", "1", "--then-tp", "2", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["tokens_equal"], record["transport"], record["ranks"]) == (True, "checkpoint", 2)
    assert record["fallback"] is None
