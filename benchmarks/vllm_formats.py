"""vLLM's own ways to read weights: ``python vllm_formats.py MODEL ROUNDS FORMAT...`` where vLLM is installed.

Loads a model over and over, without an engine, each time into parameters that were made just before, and prints a line
of JSON: ``formats``, by name the seconds of ``load_weights`` with the page cache dropped and warm, or why it cannot
load here; ``versions`` of the libraries.
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
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["VLLM_PLUGINS"] = ""  # vLLM as it is


def _drop(model: Path) -> None:
    for path in model.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def _config(model: Path, load_format: str) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(
        model=str(model), load_format=load_format, max_model_len=256, enforce_eager=True, gpu_memory_utilization=0.1
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


def _versions() -> dict[str, str]:
    names = ("torch", "safetensors", "runai-model-streamer", "fastsafetensors")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def measure(model: Path, rounds: int, formats: list[str]) -> dict[str, dict[str, Any]]:
    """Measure the formats in turn, after one round that does not count."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state

    samples: dict[str, dict[str, list[float]]] = {name: {"cold_s": [], "warm_s": []} for name in formats}
    failed: dict[str, str] = {}
    configs = {name: _config(model, name) for name in formats}
    with tempfile.NamedTemporaryFile() as meeting, set_current_vllm_config(next(iter(configs.values()))):
        parallel_state.init_distributed_environment(1, 0, f"file://{meeting.name}", local_rank=0, backend="gloo")
        parallel_state.initialize_model_parallel(1, 1)
    for turn in range(rounds + 1):
        for name, config in configs.items():
            if name in failed:
                continue
            try:
                with set_current_vllm_config(config):
                    for state, found in samples[name].items():
                        if state == "cold_s":
                            _drop(model)
                        seconds = _load_s(config)
                        if turn:
                            found.append(seconds)
            except Exception as error:  # whatever a format lacks here
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return {
        name: {"error": failed[name]}
        if name in failed
        else {state: statistics.median(values) for state, values in found.items()} | {"samples": found}
        for name, found in samples.items()
    }


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    print(json.dumps({"formats": found, "versions": _versions()}))  # noqa: T201
