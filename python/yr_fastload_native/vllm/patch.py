"""Makes vLLM's own loaders exchange weights: ``import yr_fastload_native.vllm.patch``.

Importing this patches ``BaseModelLoader.load_model`` in this process. vLLM's workers are separate processes;
``YR_FASTLOAD_PATCH=1`` reaches all of them.
"""

from __future__ import annotations

from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.loader_wrapper import exchanged, unwrapped

__all__ = ["is_patched", "patch", "unpatch"]


def patch() -> None:
    """Wrap ``load_model`` of vLLM's base class, but not overrides of it. Idempotent."""
    base = compat.weight_loading()
    base.load_model = exchanged(base.load_model)


def unpatch() -> None:
    """Undo `patch`. Idempotent."""
    base = compat.weight_loading()
    base.load_model = unwrapped(base.load_model) or base.load_model


def is_patched() -> bool:
    """Whether vLLM's loaders exchange weights in this process."""
    return unwrapped(compat.weight_loading().load_model) is not None


patch()
