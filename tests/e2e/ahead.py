"""What vLLM's processes are forked with: its import is most of what a small model takes."""

from __future__ import annotations

import gc
import sys

import vllm
from vllm.model_executor.models import registry

vllm.LLM  # noqa: B018 - imports what it is made of
# Otherwise it imports vLLM once more for each architecture, to keep CUDA out of a process that forks.
registry._run_in_subprocess = lambda function: function()
gc.freeze()  # no child looks through it
assert "yr_fastload_native._core" not in sys.modules, "openYuanrong's threads would not be in a child"
