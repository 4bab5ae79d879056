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

from yr_fastload_native.vllm.reports import events

from ..waiting import wait_until
from .checks import assert_pulled
from .instances import START_S, ForkServers, InTurn

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


@pytest.mark.long  # the next but one is quicker
def test_one_rank_then_two(make: Make, start: Start) -> None:
    model = make("qwen2", seed=SEED)
    first = start(model, extra={"share": "checkpoint"})
    assert wait_until(lambda: publications(first))
    second = start(model, extra={"share": "checkpoint"}, role="forked", tensor_parallel_size=2)
    assert_from_checkpoint(second, ranks=2)
    assert publications(second) == 0
    assert second.tokens == first.tokens


@pytest.mark.long
@pytest.mark.parametrize("architecture", ["qwen2_tied", "qwen2_int8"])
def test_two_ranks_load_what_files_hold(make: Make, start: Start, architecture: str) -> None:
    """Compared with two ranks that read files: a sum of two halves may be rounded to another token than the whole."""
    model = make(architecture, seed=SEED)
    plain = start(model, extra={"publish": "off"}, tensor_parallel_size=2)
    first = start(model, extra={"share": "checkpoint"})
    assert wait_until(lambda: publications(first))
    second = start(model, extra={"share": "checkpoint"}, tensor_parallel_size=2)
    assert_from_checkpoint(second, ranks=2)
    assert publications(second) == 0
    assert second.tokens == plain.tokens


def test_two_ranks_read_the_disk_once(make: Make, start: Start) -> None:
    """For the worker's memory, and load from there while it is read; weights of their layout are published too.

    All are forked, as on accelerators: from a process that has registered the load format.
    """
    model = make("llama", seed=SEED)
    first = start(model, extra={"share": "both"}, role="forked", tensor_parallel_size=2)
    assert_from_checkpoint(first, ranks=2)
    first.wait_until_published(ranks=2)
    assert wait_until(lambda: publications(first) == 1)
    alike = start(model, role="forked", tensor_parallel_size=2)
    assert_pulled(alike, "host", ranks=2)
    assert {tuple(each["identity"]["ranks"]["tp"]) for each in alike.events("loaded")} == {(0, 2), (1, 2)}
    assert alike.tokens == first.tokens
    other = start(model, extra={"share": "auto"})
    assert_from_checkpoint(other)
    assert publications(other) == 0
    assert other.tokens == first.tokens


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
    """With this model two ranks answer otherwise than one, in vLLM itself."""
    command = [sys.executable, "-m", "yr_fastload_native", "verify-vllm", "--model", str(make("qwen2", seed=SEED + 1))]
    done = subprocess.run(
        [*command, "--tp", "1", "--then-tp", "2", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["tokens_equal"], record["transport"], record["ranks"]) == (True, "checkpoint", 2)
    assert record["fallback"] is None
    assert record["compared_with"] == "third instance"


def pooling(directory: Path) -> Path:
    """A model that embeds, whose parts have other names in the files than in vLLM."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    torch.manual_seed(SEED)
    BertModel(BertConfig(vocab_size=320, max_position_embeddings=512, **sizes)).save_pretrained(directory)
    return directory


def test_a_model_that_embeds(worker: str, tmp_path: Path, servers: ForkServers) -> None:
    """Loaded by vLLM from files, from the checkpoint while it is published, and from it afterwards."""
    model = pooling(tmp_path / "model")
    arguments = {"model": model, "runner": "pooling", "skip_tokenizer_init": True}
    ways: list[dict[str, Any]] = [{"publish": "off"}, {"share": "checkpoint"}, {"share": "checkpoint"}]
    with InTurn(servers, worker, *({**arguments, "settings": way} for way in ways)) as rank:
        plain, *shared = rank.loaded
    assert plain["outcome"]["checkpoint"] is None
    for each in shared:
        assert each["outcome"]["checkpoint"]["from_files"] == []
        assert each["digest"] == plain["digest"]


OTHERS = sorted(  # the newest one last
    each.parent / "bin" / "python"
    for each in Path(__file__).parents[2].glob(".venv-vllm*/.develop")
    if each.parent != Path(sys.prefix)
)
LOAD = """
import json, os, sys
from yr_fastload_native.vllm import compat
os.environ.update(compat.beside_others(1))
import vllm
vllm.LLM(sys.argv[1], load_format="yr_fastload", model_loader_extra_config=json.loads(sys.argv[2]),
         max_model_len=128, enforce_eager=True, gpu_memory_utilization=0.1, num_gpu_blocks_override=64)
"""


@pytest.mark.long
@pytest.mark.skipif(not OTHERS, reason="needs another version of vLLM, as `make test-vllm-matrix` installs them")
def test_two_versions_share_one_checkpoint(
    make: Make, start: Start, worker: str, tmp_path: Path, environment_of_vllm: dict[str, str]
) -> None:
    model, report = make("qwen2", seed=SEED), tmp_path / "other"
    first = start(model, extra={"share": "checkpoint"})
    assert wait_until(lambda: publications(first))
    settings = {"worker": worker, "share": "checkpoint", "publish": "off", "report": str(report)}
    environment = {**environment_of_vllm, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [str(OTHERS[-1]), "-c", LOAD, str(model), json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_S, check=False)
    assert done.returncode == 0, done.stderr
    (loaded,) = events(report, "loaded")
    assert loaded["checkpoint"]["from_files"] == []
    assert loaded["checkpoint"]["bytes"] == first.loaded["checkpoint"]["bytes"]
