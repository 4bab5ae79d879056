"""Exchanges weights around vLLM's own loading: a load format, a patch, and a decorator for patched sources.

Importing this imports neither vLLM nor torch; `register` is what vLLM calls in each of its processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["LOAD_FORMAT", "exchanged", "register"]

LOAD_FORMAT = "yr_fastload"


def register() -> None:
    """Register the load format with vLLM, and patch its loaders if ``YR_FASTLOAD_PATCH`` is set.

    The entry point of the group ``vllm.general_plugins``: vLLM calls it several times in each process. If something in
    vLLM is not where it is expected, it warns and vLLM continues without the exchange.

    Raises:
        InvalidArgumentError: The patch is requested, and a setting in the environment has a value that is not allowed.
    """
    from yr_fastload_native.vllm.plugin import register as run

    run()


def exchanged(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``BaseModelLoader.load_model`` in vLLM's source; see patches/README.md."""
    from yr_fastload_native.vllm.loader_wrapper import exchanged as decorate

    return decorate(load_model)
