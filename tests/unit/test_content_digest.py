"""The content digest: the same for the same weights, another for any others."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.catalogue.content_digest import check_trusted, content_digest, entries
from yr_fastload_native.errors import InvalidArgumentError, TransferTimeoutError
from yr_fastload_native.weights.sha256 import sums
from yr_fastload_native.weights.tensor_table import TensorTable

WHO = {"model": "m", "tp_rank": 0}


def model() -> dict[str, Any]:
    base = np.arange(60000, dtype=np.float32)
    return {
        "base": base,
        "view": base[100:200],
        "tied": base,
        "empty": np.zeros((0, 3)),
        "scalar": np.float64(3) * np.ones(()),
    }


def test_it_is_what_the_documents_say() -> None:
    weights = {"b": np.arange(6, dtype=np.int16).reshape(2, 3), "a": np.zeros(0, np.uint8)}
    who = hashlib.sha256(json.dumps(WHO, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    described = [
        ["a", "uint8", [0], [1], 0, None, ""],
        ["b", "int16", [2, 3], [3, 1], 12, None, hashlib.sha256(weights["b"].tobytes()).hexdigest()],
    ]
    text = json.dumps(["yr-fastload content 1", who, described], separators=(",", ":"))
    assert fl.content_digest(weights, WHO) == hashlib.sha256(text.encode()).hexdigest()


def test_the_same_weights_have_the_same() -> None:
    one = content_digest(model(), WHO)
    assert one == content_digest(model(), dict(reversed(WHO.items())), threads=7)
    other_order = {
        name: model_[name] for model_ in [model()] for name in ["scalar", "empty", *model_] if name in model_
    }
    assert one == content_digest(other_order, WHO)
    as_torch = {name: torch.from_numpy(np.asarray(value)) for name, value in model().items()}
    assert one == content_digest(as_torch, WHO)


def _change(what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    weights, who = model(), dict(WHO)
    if what == "byte":
        weights["base"].view(np.uint8)[17] ^= 1
    elif what == "name":
        weights["other"] = weights.pop("scalar")
    elif what == "dtype":
        weights["scalar"] = weights["scalar"].view(np.int64)
    elif what == "shape":
        weights["empty"] = np.zeros((3, 0))
    elif what == "swapped":
        weights["base"][:2] = weights["base"][1::-1].copy()
    elif what == "sharing":
        weights["tied"] = weights["tied"].copy()
    elif what == "offset":
        weights["view"] = weights["base"][101:201]
    elif what == "more":
        weights["more"] = np.zeros(1)
    elif what == "fewer":
        del weights["empty"]
    elif what == "identity":
        who["tp_rank"] = 1
    return weights, who


@pytest.mark.parametrize(
    "what", ["byte", "name", "dtype", "shape", "swapped", "sharing", "offset", "more", "fewer", "identity"]
)
def test_any_other_weights_have_another(what: str) -> None:
    assert content_digest(*_change(what)) != content_digest(model(), WHO)


def test_sums_are_those_of_the_memory() -> None:
    weights = {
        "bf16": np.arange(9 << 20, dtype=np.uint8).view(ml_dtypes.bfloat16),
        "transposed": torch.randn(30, 20).t(),
    }
    table = TensorTable(weights, op="test", writable=False, max_tensors=9)
    assert sums(table, 2, lambda: None) == [
        hashlib.sha256(weights["bf16"].tobytes()).hexdigest(),
        hashlib.sha256(weights["transposed"].t().contiguous().numpy().tobytes()).hexdigest(),
    ]
    shared = TensorTable(model(), op="test", writable=False, max_tensors=9)
    assert [bool(each) for each in sums(shared, 2, lambda: None)] == [True, False, False, False, True]
    assert entries(shared)[1] == [None, ("base", 400), ("base", 0), None, None]


def test_it_ends_when_told() -> None:
    table = TensorTable({"a": np.zeros(100), "b": np.ones(100)}, op="test", writable=False, max_tensors=9)

    def check() -> None:
        raise TransferTimeoutError("late", op="test")

    with pytest.raises(TransferTimeoutError):
        sums(table, 2, check)


def test_what_is_trusted_is_checked() -> None:
    one, two = "a" * 64, "0" * 64
    assert check_trusted(one, op="load") == check_trusted([one], op="load") == {one}
    assert check_trusted(f"{one},{two}", op="load") == check_trusted({one, two}, op="load") == {one, two}
    for bad in ("", [], [""], [None], one[:-1], [one.upper()], f"{one}, {two}", [one + "\n"]):
        with pytest.raises(InvalidArgumentError, match="trusted_digests"):
            check_trusted(bad, op="load")  # type: ignore[arg-type]
