"""SGLang's default loader reads published checkpoints. Tested with a stand-in, not with SGLang itself."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.vllm.shared_checkpoint import SharedCheckpoint

__all__ = ["install"]

_log = logging.getLogger("sglang.yr_fastload")

_ITERATOR = "_get_all_weights"  # of SGLang's default loader: all that its load_model reads
_MARK = "_yr_fastload_wraps"


def install(loader_class: Any = None) -> None:
    """Have a loader read published checkpoints, and publish those that nobody has. Idempotent.

    Settings come from the environment. Every process that loads weights has to call it: SGLang spawns one for each
    rank, in which Python runs the main script again up to ``if __name__ == "__main__"``.

    Args:
        loader_class: By default SGLang's ``DefaultModelLoader``.
    """
    if loader_class is None:
        from sglang.srt.model_loader.loader import DefaultModelLoader

        loader_class = DefaultModelLoader
    original = getattr(loader_class, _ITERATOR)
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def weights(self: Any, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        shared = SharedCheckpoint(self, Settings.of({}), iterator=_ITERATOR)
        opened = None
        if not _reads_otherwise(self, model_config):
            # Named as vLLM names it.
            opened = shared.open(model, SimpleNamespace(model=model_config.model_path, revision=model_config.revision))
        shared.ends_with(model)
        if opened is None:
            yield from original(self, model_config, model)
            return
        yield from shared.weights(opened, model)
        shared.has_read(opened)

    setattr(weights, _MARK, original)
    setattr(loader_class, _ITERATOR, weights)


def _reads_otherwise(loader: Any, model_config: Any) -> bool:
    """Whether the loader filters or adds tensors: those of a multi-token predictor may be in files of their own."""
    if getattr(loader.load_config, "draft_model_idx", None) is not None:
        return True
    path = Path(str(model_config.model_path))
    return path.is_dir() and any("mtp" in name and name.endswith(".safetensors") for name in os.listdir(path))
