"""Ways of vLLM to get weights, ours among them: ``python vllm_formats.py MODEL ROUNDS WORKER FORMAT...``.

Loads a model over and over in one process, without an engine, each time into parameters that were made just before, so
that all formats find memory and page cache in the same state. Prints a line of JSON: ``formats``, by name the seconds
until the weights are there, with the page cache dropped and warm, or why the format cannot load here; ``pulls``,
likewise, from a publication of this process, every byte verified; ``versions`` of the libraries.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["VLLM_PLUGINS"] = ""  # vLLM as it is, to which only the load format is added below
_SETTLED_S = 300.0
_PULLS = {"copied": False, "aliased": True}


def _drop(model: Path) -> None:
    for path in model.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _config(model: Path, load_format: str, settings: dict[str, Any] | None = None) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(model),
        load_format=load_format,
        max_model_len=256,
        enforce_eager=True,
        gpu_memory_utilization=0.1,
        model_loader_extra_config=settings or {},
    ).create_engine_config()


def _load_s(config: Any) -> float:
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    with set_default_torch_dtype(config.model_config.dtype):
        model = initialize_model(vllm_config=config, model_config=config.model_config)
        loader = get_model_loader(config.load_config)
        started = time.perf_counter()
        loader.load_weights(model, config.model_config)
        seconds = time.perf_counter() - started
    config.compilation_config.static_forward_context.clear()
    del model
    gc.collect()
    return seconds


def _pull(config: Any) -> tuple[Any, dict[str, Any]]:
    """A model with its weights, and what the exchange says of them."""
    from vllm.model_executor.model_loader import get_model

    from yr_fastload_native.vllm import session, verifying

    model = get_model(vllm_config=config)
    config.compilation_config.static_forward_context.clear()
    assert verifying.wait(_SETTLED_S)  # reading files at low priority is not what is measured next
    return model, next(each for each in reversed(session.outcomes()) if each["event"] == "loaded")


def _pull_s(config: Any) -> float:
    seconds = _pull(config)[1]["pull_s"]  # the model goes before its memory is collected
    gc.collect()
    return float(seconds)


def _versions() -> dict[str, str]:
    names = ("torch", "safetensors", "runai-model-streamer", "fastsafetensors")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class _Samples:
    """Seconds by format and state, and what a format lacks here."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, list[float]]] = {}
        self._failed: dict[str, str] = {}

    def take(self, name: str, state: str, measure: Callable[[], float], *, counts: bool) -> None:
        if name in self._failed:
            return
        try:
            seconds = measure()
        except Exception as error:  # whatever a format lacks here
            self._failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return
        if counts:
            self._seconds.setdefault(name, {}).setdefault(state, []).append(seconds)

    def medians(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {name: {"error": why} for name, why in self._failed.items()}
        for name, samples in self._seconds.items():
            if name not in found:
                found[name] = {state: statistics.median(each) for state, each in samples.items()} | {"samples": samples}
        return found


def measure(model: Path, rounds: int, worker: str, formats: list[str]) -> dict[str, Any]:
    """Measure the formats and both kinds of pull in turn, after one round that does not count."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state

    from yr_fastload_native.vllm import LOAD_FORMAT, plugin, publishing

    plugin.register()
    own, pulls = _Samples(), _Samples()
    configs = {name: _config(model, name) for name in formats}
    settings = {"worker": worker, "hold": False}
    ours = {
        name: _config(model, LOAD_FORMAT, {**settings, "zero_copy": zero_copy}) for name, zero_copy in _PULLS.items()
    }
    first = next(iter(ours.values()))
    with tempfile.NamedTemporaryFile() as meeting, set_current_vllm_config(first):
        parallel_state.init_distributed_environment(1, 0, f"file://{meeting.name}", local_rank=0, backend="gloo")
        parallel_state.initialize_model_parallel(1, 1)
        published, _ = _pull(first)  # from disk; what is published goes with the model
        assert publishing.wait(_SETTLED_S)
    for turn in range(rounds + 1):
        for name, config in configs.items():
            with set_current_vllm_config(config):
                _drop(model)
                own.take(name, "cold_s", partial(_load_s, config), counts=turn > 0)
                own.take(name, "warm_s", partial(_load_s, config), counts=turn > 0)
        for name, config in ours.items():
            with set_current_vllm_config(config):
                pulls.take(name, "pull_s", partial(_pull_s, config), counts=turn > 0)
    del published
    return {"formats": own.medians(), "pulls": pulls.medians()}


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    print(json.dumps({**found, "versions": _versions()}))  # noqa: T201
