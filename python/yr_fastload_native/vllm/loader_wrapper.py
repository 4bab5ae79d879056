"""Wraps ``load_model`` of vLLM's loaders so that it exchanges weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.exchange import SHADOWED, Exchange
from yr_fastload_native.vllm.settings import Settings

__all__ = ["exchanged", "unwrapped"]

_MARK = "_yr_fastload_wraps"
# They inherit load_model, but produce no weights, or more than tensors.
_LEFT_ALONE = ("DummyModelLoader", "BitsAndBytesModelLoader")


def exchanged(load_model: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``BaseModelLoader.load_model`` so that it exchanges weights. Idempotent.

    Loaders that override ``load_model`` never get here; if one calls the base class's, nothing is exchanged.
    """
    if unwrapped(load_model) is not None:
        return load_model

    @functools.wraps(load_model)
    def exchanging(self: Any, *args: Any, **kwargs: Any) -> Any:
        def plain() -> Any:
            return load_model(self, *args, **kwargs)

        inherited = unwrapped(type(self).load_model) is load_model
        if not inherited or SHADOWED in vars(self) or type(self).__name__ in _LEFT_ALONE:
            return plain()
        settings = Settings.of({})
        load_format = str(getattr(self.load_config.load_format, "value", self.load_config.load_format))
        call = compat.Call.of(load_model, self, args, kwargs)
        return Exchange(self, self, call, settings, load_format).run(plain)

    setattr(exchanging, _MARK, load_model)
    return exchanging


def unwrapped(load_model: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function that `exchanged` wrapped; None for any other function."""
    return getattr(load_model, _MARK, None)
