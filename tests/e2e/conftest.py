"""Real vLLM instances on the CPU. Without vLLM in the environment none of these tests is collected."""

from __future__ import annotations

import contextlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native import sim
from yr_fastload_native.cli.child import Process
from yr_fastload_native.vllm.reports import events, wait_until_published

HERE = Path(__file__).parent
collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

START_S = 240.0
PUBLISH_S = 60.0
BASE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class Instance:
    """A vLLM instance: what it answered, and what its ranks said of their weights."""

    def __init__(self, process: Process, report: Path) -> None:
        self._process = process
        self._report = report
        process.expect("ready", START_S)
        self.tokens = process.expect("answered", START_S)["tokens"]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return events(self._report, kind)

    @property
    def loaded(self) -> dict[str, Any]:
        """What its only rank, or the first one, said of its load."""
        return self.events("loaded")[0]

    def wait_until_published(self, ranks: int = 1) -> None:
        wait_until_published(self._report, ranks, PUBLISH_S, op="test")

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def start(worker: str, tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Starts instances; they end with the test."""
    import os

    with contextlib.ExitStack() as stack:

        def begin(
            model: Path,
            *,
            extra: Mapping[str, Any] | None = None,
            simulated: bool = False,
            environment: Mapping[str, str] | None = None,
            **arguments: Any,
        ) -> Instance:
            report = tmp_path / f"report-{uuid.uuid4().hex}"
            settings = {"worker": worker, "lease_s": 2, "report": str(report), **(extra or {})}
            given = {"load_format": "yr_fastload", "model_loader_extra_config": settings, **arguments}
            if given["load_format"] != "yr_fastload":
                del given["model_loader_extra_config"]
                environment = {"YR_FASTLOAD_REPORT": str(report), "YR_FASTLOAD_WORKER": worker, **(environment or {})}
            single = arguments.get("tensor_parallel_size", 1) == 1
            task = {
                "arguments": {
                    "model": str(model),
                    "max_model_len": 128,
                    "enforce_eager": True,
                    "gpu_memory_utilization": 0.1,
                    "seed": 0,
                    **given,
                },
                "tokens": 12,
            }
            whole = sim.environment() if simulated else dict(os.environ)
            whole |= BASE | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if single else {}) | dict(environment or {})
            module = "yr_fastload_native.cli.vllm_process"
            process = stack.enter_context(Process("test", module, "first instance", task, whole, group=True))
            return Instance(process, report)

        yield begin


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes tiny models, each once; a copy of its own for every test that changes one."""
    from yr_fastload_native.vllm.tiny_model import make as make_tiny

    made: dict[tuple[str, int], Path] = {}

    def model(architecture: str, seed: int = 0) -> Path:
        key = (architecture, seed)
        if key not in made:
            directory = tmp_path_factory.mktemp("models") / f"{architecture}-{seed}" / "tiny"
            made[key] = make_tiny(directory, architecture, seed=seed)
        return made[key]

    return model
