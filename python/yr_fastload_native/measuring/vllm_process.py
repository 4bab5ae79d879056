"""The two vLLM instances of ``yr-fastload verify-vllm``."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from yr_fastload_native.measuring.child_process import Parent, main
from yr_fastload_native.settings import ENVIRONMENT_PREFIX
from yr_fastload_native.vllm import LOAD_FORMAT, compat

__all__ = ["door", "instance"]

_PROMPTS = ("an instance that starts now", "the first reads the disk", "0 1 2 3 4")


def door(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which weights are exchanged; for a vLLM that is too old, set the environment instead."""
    if compat.has_load_formats():
        return {"load_format": LOAD_FORMAT, "model_loader_extra_config": dict(settings)}
    for name, value in {**settings, "patch": True}.items():
        text = value if isinstance(value, str) else json.dumps(value)
        os.environ[ENVIRONMENT_PREFIX + name.upper()] = text
    return {}


def instance(task: Mapping[str, Any], parent: Parent) -> None:
    """Start, answer the prompts, and stay until told to end.

    Importing vLLM takes longer than starting a small model, so a task without a model imports it for the next one.
    """
    started = time.perf_counter()
    import vllm

    start = vllm.LLM  # imports its modules, which happens only now
    if "arguments" not in task:
        task = parent.wait()
        if task is None:
            return
    os.environ.update(task.get("environment", {}))
    ranks = task["arguments"].get("tensor_parallel_size", 1)
    for name, value in compat.beside_others(ranks).items():
        os.environ.setdefault(name, value)
    settings = task.get("settings")
    llm = start(**task["arguments"], **(door(settings) if settings is not None else {}))
    parent.send("ready", seconds=time.perf_counter() - started)
    sampling = vllm.SamplingParams(temperature=0.0, max_tokens=task["tokens"])
    answers = llm.generate(list(_PROMPTS), sampling, use_tqdm=False)
    parent.send(
        "answered",
        tokens=[list(answer.outputs[0].token_ids) for answer in answers],
        vllm_version=str(vllm.__version__),
    )
    parent.wait()


if __name__ == "__main__":
    main({"first instance": instance, "second instance": instance, "third instance": instance})
