"""A vLLM instance whose processes are forked, as they are on accelerators: on a CPU vLLM would have them spawned."""

from __future__ import annotations

import os
from multiprocessing import popen_spawn_posix
from typing import Any

from yr_fastload_native.measuring.child_process import Parent
from yr_fastload_native.measuring.vllm_process import instance


def _fork_all_the_same() -> None:
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_fork(cls: type, config: Any) -> None:
        check(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    def refuse(*_: object) -> None:
        raise AssertionError("a process was spawned")

    CpuPlatform.check_and_update_config = classmethod(check_and_fork)
    popen_spawn_posix.Popen.__init__ = refuse


def instance_of_forks(task: dict[str, Any], parent: Parent) -> None:
    _fork_all_the_same()
    instance(task, parent)
