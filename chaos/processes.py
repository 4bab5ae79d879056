"""The campaign's processes that publish and load, each of which answers one call at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.clock import Clock
from yr_fastload_native import sim
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.fork_server import ForkServer

__all__ = ["DeadError", "Node", "Nodes", "SilentError"]

_STACKS_S = 0.3  # until they are written
_GDB_S = 60.0
_TAIL_LINES = 30
_DEVICES = 8  # simulated ones; every node takes the next
_LAG_MS = 300  # of streams: less than a publish or load may take, and more than one does
# By the framework that uses them: what is particular about the simulated devices of such a node.
_OPAQUE = {"YR_FASTLOAD_SIM_OPAQUE": "1"}
_OF_FRAMEWORKS = {"opaque": _OPAQUE, "lagging": _OPAQUE | {"YR_FASTLOAD_SIM_STREAM_LAG_MS": str(_LAG_MS)}}


class SilentError(Exception):
    """A node did not answer in time."""


class DeadError(Exception):
    """A node ended before it answered."""


class Node:
    """One forked process.

    Attributes:
        where: The host that it is on; empty: this one.
        devices: The framework that its devices are made for; empty: any that keeps tensors in ordinary memory.
        gone: Whether it has ended, or is of no use any more.
        busy: Whether it is part of a round.
        left_behind: Connections that it had left behind when it was last looked at.
    """

    def __init__(
        self,
        server: ForkServer,
        directory: Path,
        number: int,
        devices: str,
        where: str,
        namespace: str,
        rendezvous: Path | None,
    ) -> None:
        self.name = f"node{number}"
        self.where = where
        self.devices = devices
        self._faults = directory / f"{self.name}.faults"
        self._faults.touch()
        self.clock = Clock(directory / f"{self.name}.clock")
        task = {
            "ledger": str(directory / "ledger"),
            "clock": str(self.clock.path),
            "device": number % _DEVICES,
            "namespace": namespace,
        }
        environment = _environment() | {"YR_FASTLOAD_SIM_CONTROL": str(self._faults)} | _OF_FRAMEWORKS.get(devices, {})
        if rendezvous is not None:
            environment["YR_FASTLOAD_SIM_RENDEZVOUS"] = str(rendezvous)
        self._process = Process("chaos", "chaos.node", self.name, task, environment, server=server)
        self.gone = False
        self.busy = False
        self.left_behind = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, call: str, **arguments: Any) -> None:
        if not self.gone:
            self._process.start(call, **arguments)

    def try_finish(self, timeout_s: float) -> dict[str, Any] | None:
        """The answer to the call that was started, None if there is none yet.

        Raises:
            DeadError: The process ended.
        """
        try:
            answer = self._process.receive(timeout_s)
        except EOFError:
            self.gone = True
            raise DeadError(f"{self.name} (pid {self.pid})") from None
        return answer

    def finish(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the call that was started.

        Raises:
            SilentError: None came in time. The process is of no use any more.
            DeadError: The process ended.
        """
        answer = self.try_finish(timeout_s)
        if answer is None:
            self.gone = True
            raise SilentError(f"{self.name} (pid {self.pid})\n{self.tail(stacks=True)}")
        return answer

    def call(self, call: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        self.start(call, **arguments)
        return self.finish(timeout_s)

    def tail(self, *, stacks: bool = False) -> str:
        """The end of what it wrote; with its stacks if asked."""
        if stacks:
            self.signal(signal.SIGUSR1)
            time.sleep(_STACKS_S)
        return "\n".join("    " + line for line in self._process.tail().splitlines()[-_TAIL_LINES:])

    def native_stacks(self) -> str:
        """Stacks of its threads that are in this project's code, where there is a gdb to show them."""
        gdb = shutil.which("gdb")
        if gdb is None:
            return ""
        command = [gdb, "-p", str(self.pid), "-batch", "-ex", "thread apply all backtrace 24"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            shown = subprocess.run(command, capture_output=True, text=True, timeout=_GDB_S, check=False).stdout
            return "\nThread ".join(thread for thread in shown.split("\nThread ") if "yr_fastload::" in thread)
        return ""

    def faults(self, *lines: str) -> None:
        """Of its simulated devices, until the next call of this."""
        temporary = self._faults.with_suffix(".new")
        temporary.write_text("\n".join(lines))
        temporary.rename(self._faults)

    def signal(self, number: int) -> None:
        self._process.signal(number)

    def end(self) -> None:
        """At once."""
        self.gone = True
        self._process.kill()

    def close(self) -> None:
        self.end()
        self._process.close()


class Nodes:
    """All nodes, forked when needed, and ended with the block.

    Args:
        directory: For what belongs to them.
        clock_library: Preloaded into them.
        namespaces: By host, the network namespace of nodes there; None: all are on this host.
    """

    def __init__(self, directory: Path, clock_library: Path, namespaces: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        self._namespaces = namespaces or {}
        self._all: list[Node] = []
        environment = _environment()
        environment["LD_PRELOAD"] += f":{clock_library}"
        # Few: an allocator of each thread keeps what was freed, and would look like a leak of the sum of all models.
        environment |= {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._server = ForkServer(["torch"], environment)

    def fork(self, where: str = "", devices: str = "") -> Node:
        namespace = self._namespaces.get(where, "")
        rendezvous = self._directory if self._namespaces else None
        node = Node(self._server, self._directory, len(self._all) + 1, devices, where, namespace, rendezvous)
        self._all.append(node)
        return node

    def idle(self, *, besides: set[Node], where: str = "", framework: str = "") -> Node:
        """One there for this framework that is part of no round and not among these; a new one if there is none."""
        devices = framework if framework in _OF_FRAMEWORKS else ""
        for node in self._all:
            fits = (node.where, node.devices) == (where, devices)
            if fits and not node.gone and not node.busy and node not in besides:
                return node
        return self.fork(where, devices)

    def lose(self, where: str) -> None:
        """Know that those of a host have ended, but for those that are part of a round and find out."""
        for node in self._all:
            if node.where == where and not node.busy:
                node.end()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self._all:
            node.close()
        self._server.close()


def _environment() -> dict[str, str]:
    """With simulated devices, and no settings of whoever starts the campaign."""
    base = {key: value for key, value in os.environ.items() if not key.startswith(("YR_FASTLOAD_", "HCCL_"))}
    return sim.environment(base)
