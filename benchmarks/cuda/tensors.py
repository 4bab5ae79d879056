"""Tensors that two processes make alike: random, from a seed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from yr_fastload_native.checkpoints.workloads import shapes_of

__all__ = ["Tensors", "every_dtype", "like", "model", "random_tensor", "same"]

_QWEN = "qwen2.5-7b"
_QWEN_BYTES = 15_231_233_024
_DTYPES = [
    name
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
]
_COUNTS = (0, 1, 3, 17, 4097, 1_000_003)

Tensors = dict[str, torch.Tensor]


def random_tensor(dtype: torch.dtype, count: int, device: str = "cuda") -> torch.Tensor:
    """Random bytes, but for bool, which has but two values."""
    if dtype is torch.bool:
        return torch.randint(0, 2, (count,), dtype=torch.uint8, device=device).to(torch.bool)
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, device=device)
    return raw.view(dtype) if count else torch.empty(0, dtype=dtype, device=device)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether all bytes are equal."""
    return all(
        torch.equal(
            one[name].cpu().contiguous().reshape(-1).view(torch.uint8),
            other[name].cpu().contiguous().reshape(-1).view(torch.uint8),
        )
        for name in one
    )


def every_dtype(device: str, seed: int = 0) -> Tensors:
    """Each dtype in sizes that fit nothing, orders of dimensions, and what shares memory."""
    torch.manual_seed(seed)
    made = {
        f"{name}.{count}": random_tensor(getattr(torch, name), count, device) for name in _DTYPES for count in _COUNTS
    }
    made["scalar"] = random_tensor(torch.float32, 1, device).reshape(())
    made["transposed"] = random_tensor(torch.float16, 3 * 5 * 7, device).reshape(3, 5, 7).permute(2, 0, 1)
    made["owner"] = random_tensor(torch.bfloat16, 1000, device)
    made["tied"] = made["owner"]
    made["view"] = made["owner"][3:77]  # 6 bytes into it
    made["unaligned"] = random_tensor(torch.uint8, 100_003, device)[3:]
    made["large"] = random_tensor(torch.uint8, (48 << 20) + 5, device)
    return made


def like(tensors: Tensors, device: str) -> Tensors:
    """Zeros of the same layout, with the same sharing."""
    made = {
        name: torch.zeros(tensor.numel(), dtype=torch.uint8, device=device).to(tensor.dtype).reshape(tensor.shape)
        for name, tensor in tensors.items()
        if name not in ("tied", "view", "transposed")
    }
    made["transposed"] = torch.zeros(3, 5, 7, dtype=torch.float16, device=device).permute(2, 0, 1)
    made["tied"] = made["owner"]
    made["view"] = made["owner"][3:77]
    return {name: made[name] for name in tensors}


def model(total: int, seed: int) -> Tensors:
    """The 339 tensors of Qwen2.5-7B on the GPU, scaled to about so many bytes."""
    generator = torch.Generator("cuda").manual_seed(seed)
    shapes = shapes_of(_QWEN, total / _QWEN_BYTES)
    made = {name: torch.empty(shape, dtype=torch.bfloat16, device="cuda") for name, shape in shapes.items()}
    for tensor in made.values():
        tensor.view(torch.int16).random_(-(1 << 15), 1 << 15, generator=generator)
    return made
