"""What tells that a tensor was written to."""

from __future__ import annotations

import numpy as np
import torch

from yr_fastload_native.weights.tensor_table import TensorTable


def table(**tensors) -> TensorTable:
    return TensorTable(tensors, op="test", writable=False, max_tensors=10)


def test_torch_counts_writes() -> None:
    one, other = torch.ones(3), torch.ones(3)
    before = table(one=one, other=other).versions()
    other.add_(1)
    after = table(one=one, other=other).versions()
    assert before is not None
    assert after is not None
    assert [was == now for was, now in zip(before, after, strict=True)] == [True, False]


def test_who_does_not_count_says_so() -> None:
    with torch.inference_mode():
        uncounted = torch.ones(3)
    assert table(one=torch.ones(3), other=np.ones(3)).versions() is None
    assert table(one=uncounted).versions() is None
    assert table(one=bytearray(3)).versions() is None
    assert table().versions() == []
