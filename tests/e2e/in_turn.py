"""One rank that loads models by vLLM, one after the other, and runs none: which of them share their weights."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from yr_fastload_native.measuring.child_process import Parent
from yr_fastload_native.measuring.vllm_process import door


def loads(task: dict[str, Any], parent: Parent) -> None:
    """Load by each of the arguments, and say how that went, and what the tensors held or why there are none."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model
    from vllm.plugins import load_general_plugins

    from yr_fastload_native.vllm import publishing, session

    if hasattr(torch, "accelerator"):  # as vLLM's runner on a CPU does
        torch.accelerator.empty_cache = lambda: None
    os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", **task["environment"]})
    load_general_plugins()
    from tests.e2e import besides  # noqa: F401 - registers it

    models = []  # what is published of one that is gone goes too
    for number, arguments in enumerate(task["loads"]):
        settings = {**task["settings"], **arguments.pop("settings", {})}
        before = len(session.outcomes())
        # By a load format of vLLM's own there are settings in the environment alone.
        exchange = {} if "load_format" in arguments else door(settings)
        config = EngineArgs(enforce_eager=True, **arguments, **exchange).create_engine_config()
        with set_current_vllm_config(config):
            if number == 0:
                parallel_state.init_distributed_environment(1, 0, task["meet"], local_rank=0, backend="gloo")
                parallel_state.initialize_model_parallel(1, 1)
            try:
                models.append(get_model(vllm_config=config))
            except RuntimeError as error:
                parent.send("loaded", why=str(error))
                continue
        assert publishing.wait(60)
        said = session.outcomes()[before:]
        (outcome,) = (each for each in said if each["event"] == "loaded")
        refused = [each["why"] for each in said if each["event"] == "not published"]
        parent.send("loaded", outcome=outcome, refused=refused, digest=_digest(models[-1]))
    parent.wait()


def _digest(model: Any) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        total.update(name.encode() + bytes(tensor.detach().contiguous().view(-1).untyped_storage()))
    return total.hexdigest()
