"""Tensors for measurements: those of real models, scaled to any size, and extremes.

The real models are the JSON files beside this module: names, shapes and dtype, from the models' configs.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Mapping

import msgspec

__all__ = ["DEFAULT_SCALES", "MODELS", "shapes_of", "sizes_of"]

MODELS = ("qwen2.5-7b", "qwen3-30b-a3b")

# The scale that suits a machine without accelerators.
DEFAULT_SCALES = {"qwen2.5-7b": 0.02, "qwen3-30b-a3b": 0.005, "huge": 0.25, "small": 1.0, "tiny": 1.0}

_ITEM_BYTES = 2  # bfloat16
_HUGE_BYTES = 1 << 30
_SMALL = 5000
_TINY = 10_000
_TINY_BYTES = 4096

_Shape = tuple[int, ...]


class _Tensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: _Shape
    experts: int = 0


class _Block(msgspec.Struct, forbid_unknown_fields=True):
    tensors: list[_Tensor]
    layers: int = 0


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    source: str
    dtype: str
    blocks: list[_Block]


def shapes_of(model: str, scale: float = 1.0) -> dict[str, _Shape]:
    """Names and shapes of a real model's tensors, all of them bfloat16, in the order of its layers.

    Args:
        model: One of `MODELS`.
        scale: Of the bytes, approximately: every dimension is multiplied by its square root, and is at least 1.
    """
    text = (importlib.resources.files(__package__) / f"{model}.json").read_bytes()
    side = math.sqrt(scale)
    found: dict[str, _Shape] = {}
    for block in msgspec.json.decode(text, type=_Model).blocks:
        for layer in range(max(1, block.layers)):
            for tensor in block.tensors:
                shape = tuple(max(1, round(side * dimension)) for dimension in tensor.shape)
                for expert in range(max(1, tensor.experts)):
                    found[tensor.name.format(layer=layer, expert=expert)] = shape
    return found


def sizes_of(workload: str, scale: float) -> Mapping[str, int]:
    """Names and bytes of the tensors of a workload.

    Args:
        workload: A key of `DEFAULT_SCALES`: a model; ``huge``, one tensor of 1 GiB; ``small``, 5,000 of 4 to 64 KiB;
            ``tiny``, 10,000 of 4 KiB.
        scale: Of the bytes; 1.0 is the real size.
    """
    if workload == "huge":
        return {"embed_tokens.weight": max(1, int(_HUGE_BYTES * scale))}
    if workload == "small":
        import numpy as np

        steps = np.random.default_rng(0).integers(1, 17, _SMALL)
        return {f"experts.{i}": max(1, int(4096 * int(step) * scale)) for i, step in enumerate(steps)}
    if workload == "tiny":
        return {f"tensors.{i}": max(1, int(_TINY_BYTES * scale)) for i in range(_TINY)}
    return {name: _ITEM_BYTES * math.prod(shape) for name, shape in shapes_of(workload, scale).items()}
