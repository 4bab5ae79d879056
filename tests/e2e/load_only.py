"""One rank that loads a model by vLLM and runs nothing: for layouts that this vLLM cannot run on a CPU."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from yr_fastload_native.measuring.child_process import Parent
from yr_fastload_native.measuring.vllm_process import door


def rank(task: dict[str, Any], parent: Parent) -> None:
    """Load, say what every tensor holds afterwards, and stay until told to end."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model
    from vllm.plugins import load_general_plugins

    if hasattr(torch, "accelerator"):  # as vLLM's runner on a CPU does
        torch.accelerator.empty_cache = lambda: None
    os.environ.update(task["environment"])
    exchange = door(task["settings"])
    load_general_plugins()
    if task["settings"].get("cold_load_format") == "together":
        from tests.e2e import together  # noqa: F401 - registers it
    config = EngineArgs(**task["arguments"], **exchange).create_engine_config()
    parallel = config.parallel_config
    config.parallel_config.rank = task["rank"]
    with set_current_vllm_config(config):
        parallel_state.init_distributed_environment(
            parallel.world_size, task["rank"], task["meet"], local_rank=0, backend="gloo"
        )
        parallel_state.initialize_model_parallel(parallel.tensor_parallel_size, parallel.pipeline_parallel_size)
        model = get_model(vllm_config=config)
    assert torch.get_default_dtype() is torch.float32, "vLLM's dtype is not to stay behind"
    # Without tables of rotary embeddings, which each process computes: torch's cosine of 8,192 numbers on two threads
    # is less accurate for half of them (by 2e-4) in one of 5,000 new processes.
    buffers = {name: each for name, each in model.named_buffers() if not name.endswith(".cos_sin_cache")}
    tensors = {**dict(model.named_parameters()), **buffers}
    digests = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().contiguous().view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
        digests[name] = hashlib.sha256(plain.numpy().tobytes()).hexdigest()
    parent.send("loaded", digests=digests)
    parent.wait()
