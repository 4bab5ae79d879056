"""``--load-format yr_fastload``: pull weights, or load them as vLLM would have."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.vllm import compat
from yr_fastload_native.vllm.exchange import Exchange
from yr_fastload_native.vllm.settings import Settings

__all__ = ["YrFastLoader"]


class YrFastLoader(BaseModelLoader):  # type: ignore[misc]
    """Exchanges weights around ``BaseModelLoader.load_model``; the cold load format's loader does the rest."""

    def __init__(self, load_config: Any) -> None:
        super().__init__(load_config)
        self._settings = Settings.of(load_config.model_loader_extra_config)
        exchange = self._settings.exchange
        try:
            self._cold = compat.cold_loader(load_config, exchange.cold_load_format, exchange.cold_load_extra_config)
        except Exception as error:  # of any kind
            raise InvalidArgumentError(
                f"cold_load_format={exchange.cold_load_format!r}: {type(error).__name__}: {error}", op="config"
            ) from None
        if type(self._cold).load_model is not BaseModelLoader.load_model:
            raise InvalidArgumentError(
                f"cold_load_format={exchange.cold_load_format!r} loads models in its own way and cannot be combined; "
                "use auto, safetensors, fastsafetensors, runai_streamer, sharded_state or pt",
                op="config",
            )

    def download_model(self, model_config: Any) -> None:
        """Download the files, as the cold load format does."""
        self._cold.download_model(model_config)

    def load_weights(self, model: Any, model_config: Any) -> None:
        """Read the weights from disk, which is what a reload means."""
        self._cold.load_weights(model, model_config)

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        """Load a model, with the weights from a running instance if there is one."""
        plain = super().load_model
        call = compat.Call.of(BaseModelLoader.load_model, self, args, kwargs)
        exchange = Exchange(self, self._cold, call, self._settings, self._settings.exchange.cold_load_format)
        return exchange.run(lambda: plain(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        """Everything else comes from the cold load format's loader."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._cold, name)
