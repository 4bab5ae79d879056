"""A load format whose ranks read together, as those do that share the reading of a file."""

from __future__ import annotations

import copy
from typing import Any

import torch
from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader


@register_model_loader("together")
class Together(DefaultModelLoader):
    def __init__(self, load_config: Any) -> None:
        plain = copy.copy(load_config)
        object.__setattr__(plain, "load_format", "auto")
        super().__init__(plain)

    def load_weights(self, model: torch.nn.Module, model_config: Any) -> None:
        torch.distributed.barrier()
        super().load_weights(model, model_config)
