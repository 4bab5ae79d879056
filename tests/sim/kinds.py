"""For which kinds of devices a test runs: those that it is marked with, else Ascend's alone.

What is about HCCL, `staged`, torch_npu, or torch's tensors that stand in for an NPU's is for Ascend alone; what is
about CUDA's driver is in test_cuda*.py.
"""

from __future__ import annotations

import pytest

__all__ = ["both_kinds", "kinds_and_transports"]

both_kinds = pytest.mark.parametrize("kind", ["ascend", "cuda"], indirect=True)

_ALL = [
    *(("ascend", transport) for transport in ("host", "staged", "d2d")),
    *(("cuda", transport) for transport in ("host", "d2d")),
]


def kinds_and_transports(*, never=(), later=()):
    """The test runs for each but these, some of them only where there is time."""
    return pytest.mark.parametrize(
        ("kind", "transport"),
        [pytest.param(*each, marks=pytest.mark.long if each in later else ()) for each in _ALL if each not in never],
        indirect=["kind"],
    )
