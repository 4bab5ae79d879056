"""The two processes of ``yr-fastload demo``, and the parent's handle on one.

They speak lines of JSON: the task comes on stdin, events go out on stdout, and the end of stdin means: leave.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import attrs
import click
import numpy as np

from yr_fastload_native.checkpoint import StoredTensor, compare, drop_page_cache, read_directory, scan_directory
from yr_fastload_native.cli.room import touch_memory
from yr_fastload_native.config import Config
from yr_fastload_native.errors import FastLoadError, TransferTimeoutError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from yr_fastload_native.loader import FastLoader

__all__ = ["Process", "Task"]

_Progress = Callable[[int, int], None]

_GRACE_S = 10.0
_PROGRESS_S = 0.05
_STDERR_TAIL_BYTES = 4000
_GIB = 1 << 30


@attrs.frozen(kw_only=True)
class Task:
    """What a process is to do; the same for both."""

    directory: str
    worker: str
    transport: str
    identity: dict[str, str]
    deadline_s: float
    progress: bool


class Process:
    """A fresh interpreter in the role of ``"source"`` or ``"reader"``; it does not outlive the ``with`` block.

    Raises:
        FastLoadError: From any method: what the process failed with, of the class it had there.
        TransferTimeoutError: From any method: the process did not answer in time.
    """

    def __init__(self, role: str, task: Task) -> None:
        self._role = role
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a file, since nobody reads a pipe while it runs
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            # It finds what this process finds: -m alone would put the current directory first.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which ends its processes in order
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._pump = threading.Thread(target=self._read_lines, name=f"demo-{role}", daemon=True)
        self._pump.start()
        self.tell(attrs.asdict(task))

    def tell(self, message: object) -> None:
        """Send one message."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the next expect() says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def expect(self, event: str, timeout_s: float, progress: _Progress | None = None) -> dict[str, Any]:
        """Wait for an event and return its facts; events of progress before it go to ``progress``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TransferTimeoutError(
                    f"the {self._role} did not get to {event!r} within {timeout_s:.0f} s", op="demo"
                ) from None
            if not line:
                raise self._death()
            facts: dict[str, Any] = json.loads(line)
            kind = facts.pop("event")
            if kind == "error":
                classes = {error.code: error for error in FastLoadError.__subclasses__()}
                raise classes.get(facts["code"], FastLoadError)(f"{self._role}: {facts['message']}", op="demo")
            if kind == event:
                return facts
            if progress is not None:
                progress(facts["done"], facts["total"])

    def end(self) -> None:
        """Let it leave in order, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            raise TransferTimeoutError(f"the {self._role} did not end within {_GRACE_S:.0f} s", op="demo") from None
        if status:
            raise self._death()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._reap()
        self._pump.join()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _reap(self) -> int:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _death(self) -> FastLoadError:
        status = self._reap()
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
        click.echo(self._stderr.read().decode(errors="replace"), err=True, nl=False)
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return FastLoadError(f"the {self._role} ended with {how}; what it wrote is above", op="demo")


class _Parent:
    """The way to the parent; what libraries print on stdout goes to stderr instead."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._last_progress = 0.0

    def send(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}), file=self._events, flush=True)

    def send_progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_S:  # a message a tensor would slow down what is measured
            self._last_progress = now
            self.send("progress", done=done, total=total)

    def wait(self) -> None:
        sys.stdin.readline()


def _source(task: Task, parent: _Parent) -> None:
    """Load from a cold and from a warm page cache, into fresh memory both times, then publish until told to end."""
    progress = parent.send_progress if task.progress else None
    with _loader(task) as loader:
        stored = scan_directory(task.directory)
        total = sum(tensor.nbytes for tensor in stored.values())
        touch_memory(2 * total)
        cached_bytes = sum(drop_page_cache(path) for path in {tensor.path for tensor in stored.values()})
        start = time.perf_counter()
        arrays = read_directory(task.directory, progress=progress)
        parent.send("cold", seconds=time.perf_counter() - start, cached_bytes=cached_bytes)
        del arrays
        _give_back_memory()
        touch_memory(total)
        start = time.perf_counter()
        arrays = read_directory(task.directory, progress=progress)
        parent.send("warm", seconds=time.perf_counter() - start)
        touch_memory(total)
        start = time.perf_counter()
        with contextlib.closing(loader.publish(arrays, task.identity, progress=progress)):
            parent.send("published", seconds=time.perf_counter() - start)
            parent.wait()


def _reader(task: Task, parent: _Parent) -> None:
    """Pull into tensors of its own and compare them with the files; measure memcpy once the source has gone."""
    with _loader(task) as loader:
        stored = scan_directory(task.directory)
        total = sum(tensor.nbytes for tensor in stored.values())
        touch_memory(total)
        arrays = {name: tensor.allocate() for name, tensor in stored.items()}
        start = time.perf_counter()
        report = loader.load(arrays, task.identity, progress=parent.send_progress if task.progress else None)
        seconds = time.perf_counter() - start
        threads = int(loader.stats()["copy_threads"])
        parent.send("pulled")
        parent.send(
            "compared",
            seconds=seconds,
            transport=report.transport,
            bytes=report.bytes,
            tensors=report.tensors,
            chunks=report.chunks,
            stages=dict(report.stages),
            copy_threads=threads,
            differing=compare(stored, arrays),
        )
        parent.wait()
        parent.send("memcpy", gib_per_s=_memcpy_gib_per_s(stored, arrays, threads))


_ROLES = {"source": _source, "reader": _reader}


def _loader(task: Task) -> FastLoader:
    from yr_fastload_native.loader import FastLoader

    config = Config(
        worker=task.worker,
        transport=task.transport,
        deadline_s=task.deadline_s,
        publish_deadline_s=task.deadline_s,
        hold=False,
    )
    return FastLoader(config)


def _give_back_memory() -> None:
    """Return what was freed to the kernel: malloc keeps some, and reusing it would spare the next step page faults."""
    ctypes.CDLL(None).malloc_trim(0)


def _memcpy_gib_per_s(stored: dict[str, StoredTensor], arrays: dict[str, NDArray[Any]], threads: int) -> float:
    """The best of three copies from the pulled tensors to others, both warm."""
    from yr_fastload_native import _core

    pairs = [(arrays[name], tensor.allocate()) for name, tensor in stored.items() if tensor.nbytes]
    for _, destination in pairs:
        destination.reshape(-1).view(np.uint8).fill(0)
    destinations = array("Q", [destination.ctypes.data for _, destination in pairs])
    sources = array("Q", [source.ctypes.data for source, _ in pairs])
    sizes = array("Q", [source.nbytes for source, _ in pairs])
    seconds = min(_core.memcpy_seconds(destinations, sources, sizes, threads) for _ in range(3))
    return sum(sizes) / _GIB / seconds


def _main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a publication is withdrawn
    parent = _Parent()
    task = Task(**json.loads(sys.stdin.readline()))
    try:
        _ROLES[sys.argv[1]](task, parent)
    except FastLoadError as error:
        parent.send("error", code=error.code, message=str(error))
        sys.exit(1)


if __name__ == "__main__":
    _main()
