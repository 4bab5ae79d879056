"""Whether every byte arrives from another process's GPU memory, whatever happens to that process meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cuda.source import source
from benchmarks.cuda.tensors import Tensors, every_dtype, like, model, same
from yr_fastload_native import Config, FastLoader, FastLoadError

__all__ = ["d2d_checks"]

_MODEL_BYTES = 2 << 30
_D2D = {"publish_as": "d2d"}
_BOTH = {"publish_as": "d2d+host"}
_WITHDRAWN_S = 4.0


def _named() -> dict[str, str]:
    return {"check": uuid.uuid4().hex}


def every_dtype_arrives(worker: str, verify: str) -> None:
    identity, weights = _named(), every_dtype("cuda", 5)
    empty = like(weights, "cuda")
    places = {name: tensor.data_ptr() for name, tensor in empty.items()}
    with source(worker, identity, "dtypes", seed=5, settings=_D2D), _loader(worker, verify=verify) as loader:
        report = loader.load(empty, identity)
    assert report.transport == "d2d", report.steps
    assert report.verified is (verify == "digest"), report
    assert same(weights, empty)
    assert {name: tensor.data_ptr() for name, tensor in empty.items()} == places, "memory was replaced"


def a_reader_becomes_a_source(worker: str) -> None:
    """What was read from one process is read by a third one, once the first has gone."""
    identity, weights = _named(), model(_MODEL_BYTES // 8, 6)
    target = _blank(weights)
    with (
        source(worker, identity, "model", seed=6, total=_MODEL_BYTES // 8, settings=_D2D) as first,
        FastLoader(Config(worker=worker)) as loader,
    ):
        assert loader.load(target, identity).transport == "d2d"
        first.leave()
        script = f"""
import torch, yr_fastload_native as fl
from benchmarks.cuda.tensors import model, same
weights = model({_MODEL_BYTES // 8}, 6)
target = {{name: torch.zeros_like(tensor) for name, tensor in weights.items()}}
with fl.FastLoader(fl.Config(worker={worker!r}, hold=False)) as loader:
    report = loader.load(target, {identity!r})
assert report.transport == "d2d" and same(weights, target), report.steps
"""
        done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, stderr=subprocess.PIPE)
        assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert same(weights, target)


def killed_source(worker: str, delay_s: float) -> None:
    """Killed before or while a reader copies: the right bytes, by d2d or by host, or a typed error."""
    identity, weights = _named(), model(_MODEL_BYTES, 7)
    target = _blank(weights)
    with source(worker, identity, "model", seed=7, total=_MODEL_BYTES, settings=_BOTH) as first:
        killer = threading.Timer(delay_s, first.kill)
        killer.start()
        try:
            _load_to_the_end(worker, target, identity, weights)
        finally:
            killer.join()
    _works()


def withdrawn(worker: str) -> None:
    """Withdrawn and freed while a reader copies: as above, and the source has left soon."""
    identity, weights = _named(), model(_MODEL_BYTES, 8)
    target = _blank(weights)
    with source(worker, identity, "model", seed=8, total=_MODEL_BYTES, settings=_D2D) as first:
        asked = threading.Timer(0.01, first.begin_to_leave)
        asked.start()
        _load_to_the_end(worker, target, identity, weights)
        asked.join()
        seconds = float(first.hears(20))
        assert seconds < _WITHDRAWN_S, f"it took {seconds} s to withdraw"
    _works()


def _load_to_the_end(worker: str, target: Tensors, identity: dict[str, str], weights: Tensors) -> None:
    with _loader(worker, deadline_s=20) as loader:
        try:
            loader.load(target, identity)
        except FastLoadError:
            return
    assert same(weights, target)


def killed_reader(worker: str) -> None:
    """A reader that is killed keeps its source no longer than the source's bound, and others read on."""
    identity, weights = _named(), model(_MODEL_BYTES, 9)
    target = _blank(weights)
    script = f"""
import os, signal, threading, torch, yr_fastload_native as fl
from benchmarks.cuda.tensors import model
target = model({_MODEL_BYTES}, 1)
loader = fl.FastLoader(fl.Config(worker={worker!r}, hold=False))
loader.load(target, {identity!r})
threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
while True: loader.load(target, {identity!r})
"""
    with source(worker, identity, "model", seed=9, total=_MODEL_BYTES, settings=_D2D) as first:
        died = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, stderr=subprocess.PIPE)
        assert died.returncode == -9, died.stderr.decode()[-2000:]
        with _loader(worker) as loader:
            assert loader.load(target, identity).transport == "d2d"
        seconds = first.leave()
        assert seconds < _WITHDRAWN_S, f"it took {seconds} s to withdraw"
    assert same(weights, target)


def expandable_segments(worker: str) -> None:
    """Memory that no other process can open is published as a copy."""
    identity, weights = _named(), model(_MODEL_BYTES // 8, 10)
    target = _blank(weights)
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    task: dict[str, Any] = {"seed": 10, "total": _MODEL_BYTES // 8, "settings": _D2D}
    with source(worker, identity, "model", environment=environment, **task), _loader(worker) as loader:
        report = loader.load(target, identity)
    assert report.transport == "host", report.steps
    assert same(weights, target)


def many_times(worker: str) -> None:
    """What is opened is closed: no descriptor is left of forty loads."""
    import psutil

    identity = _named()
    target = _blank(model(_MODEL_BYTES // 8, 11))
    with source(worker, identity, "model", seed=11, total=_MODEL_BYTES // 8, settings=_D2D):
        files = 0
        for turn in range(41):
            with _loader(worker) as loader:
                assert loader.load(target, identity).transport == "d2d"
            if turn == 5:
                files = psutil.Process().num_fds()
        assert psutil.Process().num_fds() <= files + 4, "descriptors are left open"


def _loader(worker: str, **settings: Any) -> FastLoader:
    return FastLoader(Config(worker=worker, hold=False, **settings))


def _blank(weights: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


def _works() -> None:
    assert float(torch.ones(1000, device="cuda").sum()) == 1000.0
    time.sleep(0.1)


def d2d_checks() -> dict[str, Callable[[str], None]]:
    """What to run, each in a process of its own: an error of CUDA's lasts as long as its process."""
    return {
        "d2d, every dtype": lambda worker: every_dtype_arrives(worker, "digest"),
        "d2d, every dtype, without digests": lambda worker: every_dtype_arrives(worker, "layout"),
        "d2d, a reader becomes a source": a_reader_becomes_a_source,
        "d2d, a source that is killed at once": lambda worker: killed_source(worker, 0.0),
        "d2d, a source that is killed while it is read": lambda worker: killed_source(worker, 0.02),
        "d2d, a source that withdraws while it is read": withdrawn,
        "d2d, a reader that is killed": killed_reader,
        "d2d, memory that others cannot open": expandable_segments,
        "d2d, forty times": many_times,
    }
