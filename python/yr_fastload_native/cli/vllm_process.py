"""The two vLLM instances of ``yr-fastload verify-vllm``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from yr_fastload_native.cli.child import Parent, main

__all__: list[str] = []

_PROMPTS = ("an instance that starts now", "the first reads the disk", "0 1 2 3 4")


def _instance(task: Mapping[str, Any], parent: Parent) -> None:
    """Start, answer the prompts, and stay until told to end."""
    started = time.perf_counter()
    import vllm

    llm = vllm.LLM(**task["arguments"])
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
    main({"first instance": _instance, "second instance": _instance})
