"""vLLM instances, and other processes with vLLM, forked from one that has imported it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from yr_fastload_native import sim
from yr_fastload_native.errors import FastLoadError, TransferTimeoutError
from yr_fastload_native.vllm.reports import events, wait_until_published

HERE = Path(__file__).parent
IMPORT_S = 120.0
START_S = 240.0
PUBLISH_S = 60.0
LEAVE_S = 10.0
STDERR_TAIL_BYTES = 4000
STANDARD = {"max_model_len": 128, "enforce_eager": True, "gpu_memory_utilization": 0.1, "seed": 0}
SMALL_CACHE = {"num_gpu_blocks_override": 64}  # of keys and values: texts are short


class Forked:
    """A process of a zygote; it leads a group, which ends with the ``with`` block."""

    def __init__(self, pid: int, stream: socket.socket, stderr: Any) -> None:
        self._pid = pid
        self._stream = stream
        self._stderr = stderr
        self._read = b""

    def tell(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the next expect() says why
            self._stream.sendall(json.dumps(message).encode() + b"\n")

    def expect(self, event: str, timeout_s: float) -> dict[str, Any]:
        """Wait for an event, and return its facts.

        Raises:
            FastLoadError: What the process failed with, or that it has ended.
            TransferTimeoutError: It took too long.
        """
        facts: dict[str, Any] = json.loads(self._line(event, time.monotonic() + timeout_s))
        kind = facts.pop("event")
        if kind == "error":
            raise FastLoadError(f"{facts['code']}: {facts['message']}", op="test")
        assert kind == event
        return facts

    def leave(self) -> None:
        """Let it leave in order, or however it can."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_WR)
        end = time.monotonic() + LEAVE_S
        while (left_s := end - time.monotonic()) > 0 and select.select([self._stream], [], [], left_s)[0]:
            if not self._receive():
                break

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self._stream.close()
        self._stderr.close()

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()
        self.close()

    def _line(self, event: str, until: float) -> bytes:
        while b"\n" not in self._read:
            if not select.select([self._stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TransferTimeoutError(f"the process did not get to {event!r} in time", op="test")
            if not (received := self._receive()):
                size = self._stderr.seek(0, os.SEEK_END)
                self._stderr.seek(max(0, size - STDERR_TAIL_BYTES))
                sys.stderr.write(self._stderr.read().decode(errors="replace"))
                raise FastLoadError("the process has ended; what it wrote is above", op="test")
            self._read += received
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _receive(self) -> bytes:
        try:
            return self._stream.recv(1 << 16)
        except ConnectionResetError:
            return b""


class Zygote:
    """The process that has imported vLLM, until the end of the ``with`` block.

    Args:
        environment: Of its children, which may add to it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._one_at_a_time = threading.Lock()
        self._asked, theirs = socket.socketpair()
        self._asked.settimeout(IMPORT_S)
        path = os.pathsep.join([str(HERE), *sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zygote", str(theirs.fileno())],
                env={**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, role: str, task: object) -> Forked:
        """A process in a role of zygote.py; the first message is its task."""
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        ours, theirs = socket.socketpair()
        with theirs, self._one_at_a_time:
            streams = [theirs.fileno(), theirs.fileno(), stderr.fileno()]
            socket.send_fds(self._asked, [role.encode()], streams)
            made = Forked(int(self._asked.recv(64)), ours, stderr)
        made.tell(task)
        return made

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._asked.close()
        self._process.kill()
        self._process.wait()


class Zygotes:
    """One of ordinary processes and one of those with simulated devices, each from when somebody asks for some.

    Args:
        stack: Ends them.
        environment: Of ordinary processes.
    """

    def __init__(self, stack: contextlib.ExitStack, environment: Mapping[str, str]) -> None:
        self._stack = stack
        self._environments = {False: environment, True: sim.environment(environment)}
        self._started: dict[bool, Zygote] = {}
        self._starting = threading.Lock()

    def fork(self, role: str, task: object, *, simulated: bool = False) -> Forked:
        """A process in a role of zygote.py; the first message is its task."""
        with self._starting:
            if simulated not in self._started:
                self._started[simulated] = self._stack.enter_context(Zygote(self._environments[simulated]))
        return self._started[simulated].fork(role, task)


class Instance:
    """A vLLM instance: what it answered, and what its ranks said of their weights."""

    def __init__(self, process: Forked, report: Path) -> None:
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


class Instances:
    """Starts instances; they end with the ``with`` block."""

    def __init__(self, zygotes: Zygotes, worker: str, reports: Path) -> None:
        self._zygotes = zygotes
        self._worker = worker
        self._reports = reports
        self._begun: list[Forked] = []

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
            role: As zygote.py has it.
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
        process = self._zygotes.fork(role, task, simulated=simulated)
        self._begun.append(process)
        return Instance(process, report)

    def __enter__(self) -> Instances:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Forked.leave, self._begun))
        for each in self._begun:
            each.close()
