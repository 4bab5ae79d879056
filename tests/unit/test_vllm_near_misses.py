"""What is said where nobody publishes an identity but somebody nearly does."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.vllm.near_misses import near_miss, nearest

MINE = {
    "engine": "vllm",
    "checkpoint": "files:" + "0" * 64,
    "config": "5" * 64,
    "dtype": "torch.bfloat16",
    "stage": "raw",
    "model_class": "models.Tiny",
    "layout": "1" * 64,
    "computed": "2" * 64,
    "read_elsewhere": [],
    "ranks": {"tp": [0, 1], "pp": [0, 1]},
    "about": {"model": "org/tiny", "revision": None, "max_model_len": 128, "runner": "generate"},
}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("tp"), inner, max_size=3),
)


def other(about: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {**MINE, **changes, "about": MINE["about"] | (about or {})}  # type: ignore[operator]


@pytest.mark.parametrize(
    ("published", "words"),
    [
        (other(dtype="torch.float16"), "dtype=torch.float16, here torch.bfloat16"),
        (other({"max_model_len": 256}, computed="3" * 64), "max_model_len=256, here 128"),
        (other({"runner": "pooling"}, layout="3" * 64, computed="3" * 64), "runner=pooling, here generate"),
        (other(layout="3" * 64), "another layout"),
        (other(stage="final"), "stage=final, here raw"),
        (other(max_model_len=128), "max_model_len=128, here missing"),
        (other({"revision": "a"}, checkpoint="files:" + "1" * 64), "another checkpoint"),
        (
            other(read_elsewhere=["model.safetensors:" + "a" * 64], layout="3" * 64),
            "weights that its model read when it was made, model.safetensors (aaaaaaaa), here none",
        ),
        (other(config="4" * 64, computed="3" * 64), "another config"),
        (
            other({"max_model_len": 256}, model_class="models.Other", layout="3" * 64),
            "model_class=models.Other, here models.Tiny",
        ),
        (
            other({"max_model_len": 256, "runner": "pooling"}, model_class="models.Other"),
            "runner=pooling, here generate",
        ),
        (other(ranks={"tp": [1, 2], "pp": [0, 1]}, layout="3" * 64), "ranks.tp=[1, 2], here [0, 1]"),
    ],
)
def test_one_field_differs(published: dict[str, Any], words: str) -> None:
    assert nearest(MINE, [published]) == f"published by another instance with {words}"


@pytest.mark.parametrize(
    "published",
    [
        other(),  # withdrawn and published again meanwhile
        other(dtype="torch.float16", stage="final"),
        other({"model": "org/other"}, checkpoint="files:" + "1" * 64),
        {"model": "of a plain loader"},
        {"engine": "another"},
        {"engine": "vllm", "about": "text"},
    ],
)
def test_nothing_is_near(published: dict[str, Any]) -> None:
    assert nearest(MINE, [published]) is None


def test_another_rank_of_the_same_ranks_explains_nothing() -> None:
    mine = {**MINE, "ranks": {"tp": [0, 2]}}
    assert nearest(mine, [{**mine, "ranks": {"tp": [1, 2]}}]) is None


@given(st.dictionaries(st.sampled_from([*MINE, "more"]), values, max_size=2))
def test_whatever_is_published_it_makes_one_line(changes: dict[str, Any]) -> None:
    words = nearest(MINE, [{**MINE, **changes}])
    assert words is None or words.isprintable()


def test_the_nearest_one_is_named() -> None:
    far = other({"max_model_len": 256, "runner": "pooling"}, layout="3" * 64, computed="3" * 64)
    near = other({"max_model_len": 64}, computed="3" * 64)
    farther = other(dtype="torch.float16", layout="3" * 64, computed="3" * 64)
    assert nearest(MINE, [farther, far, near]) == "published by another instance with max_model_len=64, here 128"


def test_an_explanation_is_no_reason_to_fail() -> None:
    fast = Mock()
    fast.identities.side_effect = UnavailableError("the worker is gone", op="identities")
    assert near_miss(fast, MINE) is None
    fast.identities.side_effect = None
    fast.identities.return_value = [other(stage="final")]
    assert near_miss(fast, MINE) == "published by another instance with stage=final, here raw"
    assert fast.identities.call_args.kwargs["deadline_s"] <= 0.5
