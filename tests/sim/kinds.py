"""For which kinds of devices a test runs: those that it is marked with, else Ascend's alone.

What is about HCCL, `staged`, torch_npu, or torch's tensors that stand in for an NPU's is for Ascend alone; what is
about CUDA's driver is in test_cuda*.py.
"""

from __future__ import annotations

import pytest

__all__ = ["KINDS_AND_TRANSPORTS", "both_kinds"]

both_kinds = pytest.mark.parametrize("kind", ["ascend", "cuda"], indirect=True)

KINDS_AND_TRANSPORTS = [
    *(("ascend", transport) for transport in ("host", "staged", "d2d")),
    *(("cuda", transport) for transport in ("host", "d2d")),
]
