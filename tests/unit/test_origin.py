"""Tensors that can be published again as long as they, or their memory, live."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.publishing.origin import TensorOrigin
from yr_fastload_native.settings import Config
from yr_fastload_native.weights.tensor_table import TensorTable

WHO = Identity.of({"model": "m"}, op="publish")


def origin_of(model: dict[str, Any]) -> TensorOrigin | None:
    table = TensorTable(model, op="publish", writable=False, max_tensors=100)
    return TensorOrigin.of(WHO, table, Config())


def parameters() -> dict[str, torch.Tensor]:
    base = torch.arange(48, dtype=torch.int32)
    return {
        "whole": base,
        "rows": base.view(12, 4)[2:5],
        "turned": torch.rand(3, 5).t(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "one wide": torch.rand(4, 1, 2).to(torch.bfloat16).transpose(0, 1),
        "complex": torch.rand(3, dtype=torch.complex64),
    }


def test_aliases_come_back_as_their_memory_has_them() -> None:
    kept = parameters()
    origin = origin_of({name: tensor.detach() for name, tensor in kept.items()})
    gc.collect()
    assert origin is not None
    found = origin.model()
    assert found is not None
    assert list(found) == list(kept)
    for name, tensor in kept.items():
        mine = found[name]
        assert mine is not tensor
        assert (mine.dtype, mine.shape, mine.data_ptr()) == (tensor.dtype, tensor.shape, tensor.data_ptr())
        assert torch.equal(mine, tensor)


def test_tensors_that_live_are_the_same_objects() -> None:
    kept = parameters()
    origin = origin_of(kept)
    assert origin is not None
    found = origin.model()
    assert found is not None
    assert all(found[name] is tensor for name, tensor in kept.items())


def test_memory_that_is_gone_is_not_published_again() -> None:
    kept = parameters()
    origin = origin_of({name: tensor.detach() for name, tensor in kept.items()})
    assert origin is not None
    del kept["turned"]
    gc.collect()
    assert origin.model() is None


def test_arrays_live_as_long_as_their_owner() -> None:
    kept: dict[str, Any] = {"array": np.zeros(3), "tensor": torch.zeros(3)}
    origin = origin_of(dict(kept))
    assert origin is not None
    assert origin.model() == kept
    del kept["array"]
    gc.collect()
    assert origin.model() is None


def test_what_has_no_weak_references_has_no_origin() -> None:
    assert origin_of({"bytes": b"123"}) is None or origin_of({"bytes": b"123"}).model() is None
    assert origin_of({"number": np.float32(1)}) is None or origin_of({"number": np.float32(1)}).model() is None
