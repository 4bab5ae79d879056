"""The tensors that measurements are made with are those of the real models."""

from __future__ import annotations

import pytest

from yr_fastload_native.checkpoints.synthetic import QWEN2_7B_BYTES, _qwen2
from yr_fastload_native.checkpoints.workloads import DEFAULT_SCALES, MODELS, shapes_of, sizes_of


def test_qwen2() -> None:
    assert shapes_of("qwen2.5-7b") == _qwen2(QWEN2_7B_BYTES)[1]
    assert sum(sizes_of("qwen2.5-7b", 1.0).values()) == QWEN2_7B_BYTES


def test_qwen3_moe() -> None:
    """18,867 tensors and 30,532,122,624 parameters: what the model's index of safetensors says."""
    sizes = sizes_of("qwen3-30b-a3b", 1.0)
    assert len(sizes) == 18_867
    assert sum(sizes.values()) == 2 * 30_532_122_624
    assert sizes["model.layers.47.mlp.experts.127.down_proj.weight"] == 2 * 2048 * 768


@pytest.mark.parametrize("workload", DEFAULT_SCALES)
@pytest.mark.parametrize("scale", [1e-9, 0.01, 0.5])
def test_scales(workload: str, scale: float) -> None:
    whole, part = sizes_of(workload, 1.0), sizes_of(workload, scale)
    assert part.keys() == whole.keys()
    assert all(size > 0 for size in part.values())
    if scale >= 0.01:
        assert sum(part.values()) == pytest.approx(scale * sum(whole.values()), rel=0.03)


def test_every_model_has_a_scale_of_its_own() -> None:
    assert set(MODELS) < set(DEFAULT_SCALES)
