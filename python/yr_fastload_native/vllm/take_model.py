"""Takes the small files of a model that is not on this machine, in a process of its own.

python -m yr_fastload_native.vllm.take_model MODEL CODE prints one line of JSON: where they are, or why there are none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import attrs

from yr_fastload_native.errors import FastLoadError, NotPublishedError
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.settings import Config, ExchangeConfig
from yr_fastload_native.vllm.model_files import take_model
from yr_fastload_native.worker import LocalWorker

__all__ = ["main"]

_TRANSPORT = "host"


def main() -> None:
    """Settings come from the environment, as those of an instance do."""
    model, code = sys.argv[1:]
    try:
        config = attrs.evolve(Config.from_env(), transport=_TRANSPORT, publish_as=_TRANSPORT, hold=False)
        _check_worker(config)
        with FastLoader(config) as fast:
            directory = take_model(fast, ExchangeConfig.from_env(), model, cache_root=_cache_root(), code=code == "1")
        answer = {"directory": str(directory)}
    except FastLoadError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))  # noqa: T201 - for whoever started this


def _check_worker(config: Config) -> None:
    """Start no worker, in which nobody would have published anything.

    Raises:
        NotPublishedError: There is none.
    """
    named = config.worker != "auto" or Config.worker_from_env()
    if not named and LocalWorker.status(config.worker_home or None) is None:
        raise NotPublishedError("no openYuanrong worker is running here, and none is named", op="model files")


def _cache_root() -> Path:
    """The directory of vLLM's caches, as vLLM determines it: to import it takes seconds."""
    named = os.environ.get("VLLM_CACHE_ROOT")
    if named:
        return Path(named).expanduser().absolute()
    return (Config.cache_directory() or Path.cwd()) / "vllm"


if __name__ == "__main__":
    main()
