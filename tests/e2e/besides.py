"""A load format that reads weights beside the files of the model, as some models do that look for one of their own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader


@register_model_loader("besides")
class Besides(DefaultModelLoader):
    def __init__(self, load_config: Any) -> None:
        plain = copy.copy(load_config)
        object.__setattr__(plain, "load_format", "auto")
        super().__init__(plain)

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        super().load_weights(model, model_config)
        torch.load(Path(model_config.model) / "mask.pt")
