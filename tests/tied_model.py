"""A model with tied weights and a buffer, and whether one has the bytes of another."""

from __future__ import annotations

import torch


def model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Linear(700, 900), torch.nn.LayerNorm(900), torch.nn.Linear(900, 300))
    made.register_buffer("table", torch.rand(1000, 999))
    made.tied = made[2].weight
    return made


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())
