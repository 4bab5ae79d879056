"""Whether every byte arrives, whatever it is and whatever happens meanwhile."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

from benchmarks.cuda.tensors import every_dtype, like, random_tensor, same
from yr_fastload_native import Config, FastLoader, FastLoadError
from yr_fastload_native.measuring.resources import private_worker

__all__ = ["host_checks", "run_checks"]

_WORKER_BYTES = 2 << 30
_LARGE_BYTES = 1 << 30
_GRAPHS, _OPERATIONS = 100, 500


def exchange(worker: str, source: str, target: str, **settings: Any) -> None:
    """Publish from one device, and load on another."""
    identity = {"check": uuid.uuid4().hex}
    weights = every_dtype(source)
    empty = like(weights, target)
    places = {name: tensor.data_ptr() for name, tensor in empty.items()}
    with FastLoader(Config(worker=worker)) as first, FastLoader(Config(worker=worker, **settings)) as second:
        first.publish(weights, identity)
        report = second.load(empty, identity)
        assert report.verified is (settings.get("verify", "digest") == "digest"), report
        assert same(weights, empty)
        assert {name: tensor.data_ptr() for name, tensor in empty.items()} == places, "memory was replaced"
        on_cpu = {name: tensor.cpu() for name, tensor in weights.items() if name not in ("tied", "view")}
        here = first.digests({name: weights[name] for name in on_cpu})
        wrong = [name for name, digest in first.digests(on_cpu).items() if here[name] != digest]
        assert not wrong, f"digests differ from the CPU's: {wrong}"


def work_under_way(worker: str) -> None:
    """What a stream has still to do to tensors is done before they are read and before they are written."""
    cuda: Any = torch.cuda  # in parts untyped
    identity = {"check": uuid.uuid4().hex}
    weights = {"a": torch.zeros(8 << 20, device="cuda")}
    stream = cuda.Stream()
    with FastLoader(Config(worker=worker)) as first, FastLoader(Config(worker=worker)) as second:
        with cuda.stream(stream):
            cuda._sleep(400_000_000)
            weights["a"].fill_(3)
            first.publish(weights, identity)
        target = {"a": torch.empty(8 << 20, device="cuda")}
        with cuda.stream(stream):
            cuda._sleep(400_000_000)
            target["a"].fill_(7)
            second.load(target, identity)
            total = float(target["a"].sum())
    assert total == 3.0 * (8 << 20), total


def graphs_meanwhile(worker: str) -> None:
    """Graphs can be captured, in torch's default mode, while other threads publish and load."""
    cuda: Any = torch.cuda  # in parts untyped
    weights = {f"w{i}": random_tensor(torch.bfloat16, 4 << 20) for i in range(8)}
    target = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    rounds, failures = [0], []
    done = threading.Event()

    def exchanges() -> None:
        try:
            with FastLoader(Config(worker=worker)) as first, FastLoader(Config(worker=worker, pin="pool")) as second:
                while not done.is_set():
                    identity = {"check": uuid.uuid4().hex}
                    with first.publish(weights, identity):
                        second.load(target, identity)
                    rounds[0] += 1
        except BaseException as error:
            failures.append(error)

    value = torch.ones(1 << 20, device="cuda")
    thread = threading.Thread(target=exchanges)
    thread.start()
    try:
        for _ in range(_GRAPHS):
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                result = value
                for _ in range(_OPERATIONS):
                    result = result * 2 - value
            graph.replay()
            assert float(result[0]) == 1.0
    finally:
        done.set()
        thread.join(60)
    assert not failures, failures
    assert rounds[0] > 1, rounds
    assert same(weights, target)


def arrays_of_others(worker: str) -> None:
    """CuPy's arrays, which have DLPack, and an object with `__cuda_array_interface__` alone."""
    cupy = importlib.import_module("cupy")

    class Plain:
        def __init__(self, array: Any) -> None:
            self.array = array
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    identity = {"check": uuid.uuid4().hex}
    weights = {"a": cupy.arange(100_003, dtype="float32"), "b": Plain(cupy.arange(77, dtype="int16"))}
    target = {"a": cupy.zeros(100_003, "float32"), "b": Plain(cupy.zeros(77, "int16"))}
    with FastLoader(Config(worker=worker)) as loader:
        loader.publish(weights, identity)
        loader.load(target, identity)
    assert bool((target["a"] == weights["a"]).all())
    assert bool((target["b"].array == weights["b"].array).all())


def bad_input(worker: str) -> None:
    """Typed errors, and nothing written."""
    identity = {"check": uuid.uuid4().hex}
    weights = {"a": torch.ones(1 << 20, device="cuda")}
    target = {"a": torch.zeros(1 << 20, device="cuda")}
    with FastLoader(Config(worker=worker)) as loader:
        loader.publish(weights, identity)
        _fails(loader, {"a": target["a"], "b": torch.zeros(3)}, identity, "on the CPU and 'a' on CUDA device 0")
        with FastLoader(Config(worker=worker, staging_bytes=1 << 20)) as small:
            _fails(small, target, identity, "raise staging_bytes")
    assert not bool(target["a"].any())


def _fails(loader: FastLoader, target: dict[str, Any], identity: Mapping[str, str], why: str) -> None:
    found = ""
    try:
        loader.load(target, identity)
    except FastLoadError as error:
        found = str(error)
    assert why in found, found or "was loaded"


def killed_worker() -> None:
    """A worker that dies in the middle of a load: its bytes or a typed error, in time, and the GPU works on."""
    with private_worker(_LARGE_BYTES) as worker:
        identity = {"check": uuid.uuid4().hex}
        weights = {str(i): random_tensor(torch.uint8, _LARGE_BYTES // 8) for i in range(8)}
        target = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        with FastLoader(Config(worker=worker)) as first, FastLoader(Config(worker=worker, deadline_s=20)) as second:
            first.publish(weights, identity)
            port = int(worker.rpartition(":")[2])
            listeners = [c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"]
            process = psutil.Process(listeners[0])

            def kill(done: int, total: int) -> None:
                if done and process.is_running():
                    process.kill()

            try:
                second.load(target, identity, progress=kill)
            except FastLoadError:
                pass
            else:
                assert same(weights, target)
        assert float(torch.ones(1000, device="cuda").sum()) == 1000.0


def killed_reader(worker: str) -> None:
    """A reader that is killed in the middle leaves the source and the next reader alone."""
    identity = {"check": uuid.uuid4().hex}
    weights = {str(i): random_tensor(torch.uint8, _LARGE_BYTES // 16) for i in range(8)}
    script = f"""
import os, signal, torch, yr_fastload_native as fl
target = {{str(i): torch.zeros({_LARGE_BYTES // 16}, dtype=torch.uint8, device="cuda") for i in range(8)}}
with fl.FastLoader(fl.Config(worker={worker!r})) as loader:
    loader.load(target, {identity!r}, progress=lambda done, total: done and os.kill(os.getpid(), signal.SIGKILL))
"""
    with FastLoader(Config(worker=worker)) as first, FastLoader(Config(worker=worker)) as second:
        first.publish(weights, identity)
        died = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, capture_output=True, text=True)
        assert died.returncode == -9, died.stderr
        target = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        second.load(target, identity)
        assert same(weights, target)


def trusted(worker: str) -> None:
    """By content digests, taken over the GPU's memory at both ends."""
    identity = {"check": uuid.uuid4().hex}
    weights = every_dtype("cuda")
    target = like(weights, "cuda")
    with FastLoader(Config(worker=worker, publish_sha256=True)) as first, FastLoader(Config(worker=worker)) as second:
        digest = first.publish(weights, identity).digest
        assert digest is not None
        second.load(target, identity, trusted_digests=digest)
    assert same(weights, target)


def host_checks() -> dict[str, Callable[[str], None]]:
    """What to run."""
    return {
        "every dtype, GPU to GPU": lambda worker: exchange(worker, "cuda", "cuda"),
        "every dtype, GPU to CPU": lambda worker: exchange(worker, "cuda", "cpu"),
        "every dtype, CPU to GPU": lambda worker: exchange(worker, "cpu", "cuda"),
        "every dtype, verified before the first byte is written": lambda worker: exchange(
            worker, "cuda", "cuda", staging="always"
        ),
        "every dtype, without digests": lambda worker: exchange(worker, "cuda", "cuda", verify="layout"),
        "every dtype, trusted by SHA-256": trusted,
        "work under way on a stream": work_under_way,
        "graphs that are captured meanwhile": graphs_meanwhile,
        "arrays of CuPy and __cuda_array_interface__": arrays_of_others,
        "bad input": bad_input,
        "a reader that is killed": killed_reader,
        "a worker that is killed": lambda _: killed_worker(),
    }


def run_checks(
    checks: Mapping[str, Callable[[str], None]], outcomes: dict[str, str], note: Callable[[str], None]
) -> None:
    """Sets ``"passed"``, or what went wrong, by check."""
    with private_worker(_WORKER_BYTES) as worker:
        for name, check in checks.items():
            try:
                check(worker)
                outcomes[name] = "passed"
            except Exception as error:
                traceback.print_exc()
                outcomes[name] = f"{type(error).__name__}: {error}"
            note(f"{name}: {outcomes[name][:200]}")
