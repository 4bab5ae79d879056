"""A process that publishes tensors of the GPU, and does what it is told; and how another one starts it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Source", "source"]

_MARK = "source: "
_READY_S = 60.0
_ENDED_S = 20.0


class Source:
    """The process.

    Attributes:
        told: What it said when it had published.
    """

    def __init__(self, task: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cuda.source", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.told = self.hears(_READY_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(_MARK):  # others may write there too
                self._lines.put(line.removeprefix(_MARK))
        self._lines.put("")

    def hears(self, seconds: float) -> Any:
        """The next thing that it says."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the source said nothing for {seconds} s") from None
        assert line, f"the source ended with {self.process.wait(_ENDED_S)}; its own lines say why"
        return json.loads(line)

    def begin_to_leave(self) -> None:
        """Have it withdraw and free its tensors; `hears` tells the seconds that it took."""
        assert self.process.stdin is not None
        self.process.stdin.write("leave\n")
        self.process.stdin.flush()

    def leave(self) -> float:
        """Have it withdraw; returns the seconds that it took."""
        self.begin_to_leave()
        return float(self.hears(_ENDED_S))

    def kill(self) -> None:
        self.process.kill()


@contextlib.contextmanager
def source(
    worker: str, identity: Mapping[str, str], what: str, *, environment: Mapping[str, str] | None = None, **task: Any
) -> Iterator[Source]:
    """A source that does not outlive the block.

    Args:
        worker: Its worker.
        identity: What it publishes the tensors as.
        what: ``dtypes`` or ``model``.
        environment: Beside this process's.
        task: ``seed``, ``total`` bytes of a model, ``settings`` of its loader.
    """
    made = Source({"worker": worker, "identity": dict(identity), "what": what, **task}, environment or {})
    try:
        yield made
    finally:
        made.kill()
        made.process.wait(_ENDED_S)


def _say(what: object) -> None:
    sys.stdout.write(f"{_MARK}{json.dumps(what)}\n")
    sys.stdout.flush()


def _main(task: dict[str, Any]) -> None:
    import torch

    from benchmarks.cuda.tensors import every_dtype, model
    from yr_fastload_native import Config, FastLoader

    torch.cuda.set_device(0)
    seed = task.get("seed", 0)
    weights = every_dtype("cuda", seed) if task["what"] == "dtypes" else model(task["total"], seed)
    torch.cuda.synchronize()
    loader = FastLoader(Config(worker=task["worker"], **task.get("settings", {})))
    started = time.perf_counter()
    publication = loader.publish(weights, task["identity"])
    seconds = time.perf_counter() - started
    settled = publication.wait_settled(_READY_S)
    told = {"publish_s": seconds, "settled_s": time.perf_counter() - started, "settled": settled}
    _say(told)
    if sys.stdin.readline():
        started = time.perf_counter()
        publication.close()
        seconds = time.perf_counter() - started
        weights.clear()
        del publication
        torch.cuda.empty_cache()
        _say(seconds)
        sys.stdin.readline()
    loader.close()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
