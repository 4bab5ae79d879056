"""Have vLLM's own loaders exchange weights: ``import yr_fastload_native.vllm.patch``.

Importing this patches ``BaseModelLoader.load_model`` of this process. vLLM's workers are processes of their own:
``YR_FASTLOAD_PATCH=1`` is the way that reaches all of them.
"""

from __future__ import annotations

from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.exchange import exchanged, unwrapped

__all__ = ["is_patched", "patch", "unpatch"]


def patch() -> None:
    """Wrap ``load_model`` of vLLM's base class; loaders that override it are left alone. Idempotent."""
    base = compat.weight_loading()
    base.load_model = exchanged(base.load_model)


def unpatch() -> None:
    """Put back what `patch` wrapped. Idempotent."""
    base = compat.weight_loading()
    base.load_model = unwrapped(base.load_model) or base.load_model


def is_patched() -> bool:
    """Whether vLLM's loaders exchange weights in this process."""
    return unwrapped(compat.weight_loading().load_model) is not None


patch()
