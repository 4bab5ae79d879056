"""Real vLLM instances on the CPU. Without vLLM in the environment none of these tests is collected."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from yr_fastload_native import sim
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.vllm.reports import events, wait_until_published

HERE = Path(__file__).parent
collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

VLLM_PROCESS = "yr_fastload_native.measuring.vllm_process"
START_S = 240.0
PUBLISH_S = 60.0
BASE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
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


class Spares:
    """Processes that have imported vLLM, which is most of what starting a small model takes: one is always on its way.

    Args:
        stack: Ends them.
        sockets: Where vLLM may leave some, of processes that are killed.
    """

    def __init__(self, stack: contextlib.ExitStack, sockets: str) -> None:
        self._stack = stack
        self._sockets = sockets
        self._ready: dict[bool, Process] = {}

    def take(self, *, simulated: bool, module: str | None) -> Process:
        """A process that waits for its task; one that runs another module is new, and finds it where this one does."""
        if module is not None:
            return self._begin(simulated, module)
        taken = self._ready.pop(simulated, None) or self._begin(simulated)
        self._ready[simulated] = self._begin(simulated)
        return taken

    def _begin(self, simulated: bool, module: str = VLLM_PROCESS) -> Process:
        environment = (sim.environment() if simulated else dict(os.environ)) | BASE
        environment["VLLM_RPC_BASE_PATH"] = self._sockets
        made = Process("test", module, "first instance", {}, environment, group=True)
        return self._stack.enter_context(made)


@pytest.fixture(scope="session")
def spares() -> Iterator[Spares]:
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as sockets, contextlib.ExitStack() as stack:
        yield Spares(stack, sockets)


@pytest.fixture
def start(worker: str, tmp_path: Path, spares: Spares) -> Iterator[Callable[..., Instance]]:
    """Starts instances; they end with the test."""
    begun: list[Process] = []

    def begin(
        model: Path,
        *,
        extra: Mapping[str, Any] | None = None,
        simulated: bool = False,
        environment: Mapping[str, str] | None = None,
        module: str | None = None,
        **arguments: Any,
    ) -> Instance:
        report = tmp_path / f"report-{uuid.uuid4().hex}"
        settings: Mapping[str, Any] | None = {
            "worker": worker,
            "lease_s": 5,  # longer than a machine that is out of breath takes to renew it
            "report": str(report),
            **(extra or {}),
        }
        given = dict(environment or {})
        if "load_format" in arguments:  # vLLM's own, and settings come from the environment
            settings = None
            given |= {"YR_FASTLOAD_REPORT": str(report), "YR_FASTLOAD_WORKER": worker}
        if arguments.get("tensor_parallel_size", 1) == 1:
            given["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        process = spares.take(simulated=simulated, module=module)
        begun.append(process)
        standard = {"max_model_len": 128, "enforce_eager": True, "gpu_memory_utilization": 0.1, "seed": 0}
        process.tell(
            {
                "arguments": {"model": str(model), **standard, **arguments},
                "environment": given,
                "settings": settings,
                "tokens": 12,
            }
        )
        return Instance(process, report)

    yield begin
    with ThreadPoolExecutor() as pool:
        list(pool.map(Process.leave, begun))
    for process in begun:
        process.kill()


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes tiny models, each once; a copy of its own for every test that changes one."""
    from yr_fastload_native.checkpoints.tiny_vllm import Size
    from yr_fastload_native.checkpoints.tiny_vllm import make as make_tiny

    made: dict[tuple[str, int, int], Path] = {}

    def model(architecture: str, seed: int = 0, vocabulary: int = 0) -> Path:
        key = (architecture, seed, vocabulary)
        if key not in made:
            directory = tmp_path_factory.mktemp("models") / "-".join(map(str, key)) / "tiny"
            size = Size(vocabulary=vocabulary) if vocabulary else None
            made[key] = make_tiny(directory, architecture, size=size, seed=seed)
        return made[key]

    return model
