"""The campaign's processes: nodes that publish and load, and openYuanrong workers, one of them in reserve."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

import yr_fastload_native as fl
from yr_fastload_native import _core, sim

_HERE = Path(__file__).parent
_START_S = 30.0
_RPC_S = 5.0
_GDB_S = 60.0
_TAIL_LINES = 30
_ASKING = "AsyncRequestPoo"  # AsyncRpcRequestManager::ReadLoop, 0.8.1
_BEHIND = 15
# Fields of a line of its resource.log.
_POOL = 7
_OBJECTS = 10


class Clock:
    """The wall clock of one process, to be set; see ``clock.cpp``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jump(0.0)

    def jump(self, seconds: float) -> None:
        """Be so far from the real time from now on."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(file, struct.pack("q", round(seconds * 1e9)), 0)
        os.close(file)


class SilentError(Exception):
    """A node did not answer in time."""


class DeadError(Exception):
    """A node ended before it answered."""


class Node:
    """One forked process; one call at a time."""

    def __init__(self, room: Path, name: str, connection: socket.socket) -> None:
        self.name = name
        self.control = room / f"{name}.control"
        self.log = room / f"{name}.log"
        self.clock = Clock(room / f"{name}.clock")
        self._connection = connection
        self._received = b""
        self.pid: int = self.finish(_START_S)["pid"]
        self.gone = False
        self.busy = False
        self.left_behind = 0

    def start(self, call: str, **arguments) -> None:
        with contextlib.suppress(OSError):  # `finish` says that it is dead
            self._connection.sendall(json.dumps({"name": call, **arguments}).encode() + b"\n")

    def try_finish(self, timeout_s: float) -> dict | None:
        """The answer to the call that was started, None if there is none yet.

        Raises:
            DeadError: The process ended.
        """
        end = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._connection], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            try:
                more = self._connection.recv(1 << 16)
            except OSError:
                more = b""
            if not more:
                self.gone = True
                raise DeadError(f"{self.name} (pid {self.pid})")
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        return json.loads(line)

    def finish(self, timeout_s: float) -> dict:
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

    def tail(self, *, stacks: bool = False) -> str:
        """The end of what it wrote; with its stacks if asked."""
        if stacks:
            self.signal(signal.SIGUSR1)
            time.sleep(0.3)
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join("    " + line for line in text.splitlines()[-_TAIL_LINES:])

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

    def call(self, name: str, timeout_s: float, **arguments) -> dict:
        self.start(name, **arguments)
        return self.finish(timeout_s)

    def faults(self, *lines: str) -> None:
        """Of its simulated devices, until the next call of this."""
        temporary = self.control.with_suffix(".new")
        temporary.write_text("\n".join(lines))
        temporary.rename(self.control)

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> None:
        self.gone = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self._connection.close()


class Herd:
    """Nodes, forked when needed."""

    def __init__(self, room: Path) -> None:
        self._room = room
        self._count = 0
        self.nodes: list[Node] = []
        clock = room / "clock.so"
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(clock), str(_HERE / "clock.cpp"), "-ldl"]
        subprocess.run(command, check=True)
        self.clock_library = clock
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(room / "nodes"))
        self._listener.listen()
        self._listener.settimeout(_START_S)
        base = {key: value for key, value in os.environ.items() if not key.startswith(("YR_FASTLOAD_", "HCCL_"))}
        environment = sim.environment(base)
        environment["LD_PRELOAD"] += f":{clock}"
        # Few: an allocator of each thread keeps what was freed, and would look like a leak of the sum of all models.
        environment |= {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-u", str(_HERE / "chaos_node.py"), str(room)],
            stdin=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=room,
        )

    def fork(self) -> Node:
        self._count += 1
        name = f"node{self._count}"
        for suffix in ("control", "clock"):
            (self._room / f"{name}.{suffix}").write_bytes(b"" if suffix == "control" else bytes(8))
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        connection, _ = self._listener.accept()
        node = Node(self._room, name, connection)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        for node in self.nodes:
            if not node.gone:
                node.end()
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._listener.close()


class Worker:
    """One openYuanrong worker, its clock, and a connection to look at what it stores."""

    _starting = threading.Lock()  # what is preloaded goes through the environment of this process

    def __init__(self, memory_mb: int, clock_library: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="yrfl-", dir="/tmp"))
        self.clock = Clock(self.home.parent / f"{self.home.name}.clock")
        self._memory_mb = memory_mb
        self._clock_library = clock_library
        self._store: _core.ObjectStore | None = None
        self.incarnation = 0
        self._start(0)

    def _start(self, port: int) -> None:
        with self._starting:
            os.environ |= {"LD_PRELOAD": str(self._clock_library), "CHAOS_CLOCK": str(self.clock.path)}
            try:
                self._local = fl.LocalWorker(home=self.home, memory_mb=self._memory_mb, port=port).start()
            finally:
                del os.environ["LD_PRELOAD"], os.environ["CHAOS_CLOCK"]
        self.address = self._local.address
        status = fl.LocalWorker.status(self.home)
        assert status is not None
        self.pid = status.pid
        self.process = psutil.Process(self.pid)

    def calm(self) -> None:
        """Put threads that ask for events without a pause behind everybody else's.

        While clients for devices are connected several of them take a core each, and this machine may have two.
        """
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if (task / "comm").read_text().strip() == _ASKING:
                    os.setpriority(os.PRIO_PROCESS, int(task.name), _BEHIND)

    def restart(self) -> None:
        """At the same address, with nothing in it."""
        self._store = None
        self.incarnation += 1
        self.signal(signal.SIGKILL)
        self._local.stop(force=True)
        self._start(int(self.address.rpartition(":")[2]))

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def store(self) -> _core.ObjectStore:
        if self._store is None:
            self._store = self.connect(rpc_timeout_s=_RPC_S)
        return self._store

    def connect(self, *, rpc_timeout_s: float) -> _core.ObjectStore:
        host, _, port = self.address.rpartition(":")
        connection = _core.Connection(host, int(port), connect_timeout_s=_RPC_S, rpc_timeout_s=rpc_timeout_s)
        return _core.connect_host_store(connection)

    def counts(self) -> list[tuple[int, int]]:
        """Objects, and bytes of the pool that they take, by its own count: an entry every ten seconds of its life."""
        log = self.home / "datasystem" / "logs" / "resource.log"
        lines = log.read_text().splitlines() if log.exists() else []
        fields = [line.split("|") for line in lines]
        return [(int(each[_OBJECTS]), int(each[_POOL].split("/")[0])) for each in fields if len(each) > _OBJECTS]

    def close(self) -> None:
        self._store = None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        self._local.stop(force=True)
        shutil.rmtree(self.home, ignore_errors=True)
        self.clock.path.unlink(missing_ok=True)


class Workers:
    """The worker in use, and one that is ready to take its place."""

    def __init__(self, memory_mb: int, clock_library: Path) -> None:
        self._arguments = memory_mb, clock_library
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self.current = Worker(*self._arguments)
        self._reserve: concurrent.futures.Future[Worker] | None = None

    def prepare(self) -> None:
        """Have the next one started in the background."""
        if self._reserve is None:
            self._reserve = self._pool.submit(Worker, *self._arguments)

    def replace(self) -> None:
        self.current.close()
        self.prepare()
        assert self._reserve is not None
        self.current, self._reserve = self._reserve.result(), None

    def close(self) -> None:
        self.current.close()
        if self._reserve is not None:
            self._reserve.result().close()
        self._pool.shutdown()
