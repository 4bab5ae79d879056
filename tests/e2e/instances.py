"""vLLM instances, and other processes with vLLM, forked from one that has imported it."""

from __future__ import annotations

import contextlib
import socket
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from yr_fastload_native import sim
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.fork_server import ForkServer
from yr_fastload_native.vllm.reports import events, wait_until_published

START_S = 240.0
LOAD_S = 180.0
PUBLISH_S = 60.0
STANDARD = {"max_model_len": 128, "enforce_eager": True, "gpu_memory_utilization": 0.1, "seed": 0}
SMALL_CACHE = {"num_gpu_blocks_override": 64}  # of keys and values: texts are short


class ForkServers:
    """What processes with vLLM are forked from, with simulated devices and without, each from when one is wanted.

    Args:
        stack: Ends them.
        environment: Of processes without devices.
    """

    def __init__(self, stack: contextlib.ExitStack, environment: Mapping[str, str]) -> None:
        self._stack = stack
        self._environments = {False: environment, True: sim.environment(environment)}
        self._started: dict[bool, ForkServer] = {}
        self._starting = threading.Lock()

    def fork(self, role: str, task: object, *, simulated: bool = False) -> Process:
        """A process in a role of roles.py; the first message is its task."""
        environment = self._environments[simulated]
        with self._starting:
            if simulated not in self._started:
                server = ForkServer(["tests.e2e.ahead"], environment)
                self._started[simulated] = self._stack.enter_context(server)
        server = self._started[simulated]
        return Process("test", "tests.e2e.roles", role, task, environment, group=True, server=server)


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


class InTurn:
    """One rank that loads models, each by vLLM, and runs none; it publishes until the end of the ``with`` block.

    Args:
        servers: It is forked from one of these.
        worker: Address.
        loads: Arguments of vLLM for each model; and its `settings` of the exchange.
        simulated: Whether it has devices.
        environment: Added to its own.

    Attributes:
        loaded: What it said of each: its `outcome`, a `digest` of its tensors, and why it `refused` to publish; or
            `why` it failed.
    """

    def __init__(
        self,
        servers: ForkServers,
        worker: str,
        *loads: Mapping[str, Any],
        simulated: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meet = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        task = {
            "loads": [{"max_model_len": 128, **each, "model": str(each["model"])} for each in loads],
            "settings": {"worker": worker, "lease_s": 5},
            "environment": dict(environment or {}),
            "meet": meet,
        }
        self._process = servers.fork("loads", task, simulated=simulated)
        try:
            self.loaded = [self._process.expect("loaded", LOAD_S) for _ in loads]
        except BaseException:
            self._process.close()
            raise

    def kill(self) -> None:
        self._process.kill()

    def __enter__(self) -> InTurn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.close()


class Instances:
    """Starts instances; they end with the ``with`` block."""

    def __init__(self, servers: ForkServers, worker: str, reports: Path) -> None:
        self._servers = servers
        self._worker = worker
        self._reports = reports
        self._begun: list[Process] = []

    def start(
        self,
        model: Path,
        *,
        extra: Mapping[str, Any] | None = None,
        simulated: bool = False,
        environment: Mapping[str, str] | None = None,
        role: str = "instance",
        **arguments: Any,
    ) -> Instance:
        """One that loads a model with these settings, and has answered.

        Args:
            model: Its directory.
            extra: Settings of the exchange.
            simulated: Whether it has devices.
            environment: Added to its own.
            role: As roles.py has it.
            arguments: Of vLLM.
        """
        report = self._reports / f"report-{uuid.uuid4().hex}"
        settings: Mapping[str, Any] | None = {
            "worker": self._worker,
            "lease_s": 5,  # longer than a machine that is out of breath takes to renew it
            "report": str(report),
            **(extra or {}),
        }
        given = dict(environment or {})
        if "load_format" in arguments:  # vLLM's own, and settings come from the environment
            settings = None
            given |= {"YR_FASTLOAD_REPORT": str(report), "YR_FASTLOAD_WORKER": self._worker}
        if arguments.get("tensor_parallel_size", 1) == 1:
            given["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        task = {
            "arguments": {"model": str(model), **STANDARD, **SMALL_CACHE, **arguments},
            "environment": given,
            "settings": settings,
            "tokens": 12,
        }
        process = self._servers.fork(role, task, simulated=simulated)
        self._begun.append(process)
        return Instance(process, report)

    def __enter__(self) -> Instances:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.leave, self._begun))
        for each in self._begun:
            each.close()
