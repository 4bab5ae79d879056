"""An instance's part in starting others where the directory of the model is not."""

from __future__ import annotations

import logging

from yr_fastload_native.vllm import compat, session
from yr_fastload_native.vllm.background import Background, Thread
from yr_fastload_native.vllm.files_read import Checkpoint
from yr_fastload_native.vllm.model_files import described, description, publish_model
from yr_fastload_native.vllm.ready import when_ready
from yr_fastload_native.vllm.settings import Settings

__all__ = ["hash_as_there", "share_model"]

_log = logging.getLogger("vllm.yr_fastload")

_END_S = 10.0
_background = Background("yr-fastload-model")


def hash_as_there() -> None:
    """What is compiled for a model whose small files were taken is found as where its directory is. Never raises."""

    def there(model: str) -> str | None:
        about = described(model)
        return None if about is None else about.model

    try:
        compat.hash_models_as(there)
    except Exception as error:  # a version of vLLM in which something has moved
        _log.debug("what is compiled depends on where the model is: %s", str(error))


def share_model(call: compat.Call, settings: Settings, checkpoint: Checkpoint) -> None:
    """Publish the small files of a model once this instance is ready. Never raises.

    Args:
        call: The arguments of ``load_model``.
        settings: Of the exchange.
        checkpoint: The weights' files.
    """
    try:
        config, model = call.vllm_config, call.model_config
        worker = compat.worker_class(config)
        is_first = compat.rank_directory(config) == "rank_0_0" and not call.prefix and model is config.model_config
        shares = settings.exchange.share_model_files and settings.exchange.publish != "off"
        if worker is None or not is_first or not shares:
            return

        def publish(_: Thread) -> None:
            count = publish_model(
                session.loader_for_files(settings.transfer),
                description(str(model.model), checkpoint.text, checkpoint.apart),
                architectures=list(getattr(model.hf_config, "architectures", None) or []),
                cache_root=compat.cache_root(),
                code=bool(model.trust_remote_code),
            )
            session.record("published model", {"files": count}, settings.exchange.report)

        when_ready(worker, lambda: _background.start(publish, _refuse, end_s=_END_S))
    except Exception as error:  # a version of vLLM in which something has moved
        _refuse(error)


def _refuse(error: Exception) -> None:
    _log.warning("the small files of the model are not published: %s: %s", type(error).__name__, str(error))
