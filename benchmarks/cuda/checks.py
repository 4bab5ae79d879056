"""Whether every byte arrives, whatever it is and whatever happens meanwhile."""

from __future__ import annotations

import importlib
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch

from yr_fastload_native import Config, FastLoader, FastLoadError
from yr_fastload_native.measuring.resources import private_worker

__all__ = ["run_checks"]

_WORKER_BYTES = 2 << 30
_LARGE_BYTES = 1 << 30
_DTYPES = [
    name
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
]
_COUNTS = (0, 1, 3, 17, 4097, 1_000_003)

Tensors = dict[str, torch.Tensor]


def random_tensor(dtype: torch.dtype, count: int, device: str = "cuda") -> torch.Tensor:
    """Random bytes, but for bool, which has but two values."""
    if dtype is torch.bool:
        return torch.randint(0, 2, (count,), dtype=torch.uint8, device=device).to(torch.bool)
    raw = torch.randint(0, 256, (count * dtype.itemsize,), dtype=torch.uint8, device=device)
    return raw.view(dtype) if count else torch.empty(0, dtype=dtype, device=device)


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Whether all bytes are equal."""
    return all(
        torch.equal(
            one[name].cpu().contiguous().reshape(-1).view(torch.uint8),
            other[name].cpu().contiguous().reshape(-1).view(torch.uint8),
        )
        for name in one
    )


def every_dtype(device: str) -> Tensors:
    """Each dtype in sizes that fit nothing, orders of dimensions, and what shares memory."""
    made = {
        f"{name}.{count}": random_tensor(getattr(torch, name), count, device) for name in _DTYPES for count in _COUNTS
    }
    made["scalar"] = random_tensor(torch.float32, 1, device).reshape(())
    made["transposed"] = random_tensor(torch.float16, 3 * 5 * 7, device).reshape(3, 5, 7).permute(2, 0, 1)
    made["owner"] = random_tensor(torch.bfloat16, 1000, device)
    made["tied"] = made["owner"]
    made["view"] = made["owner"][3:77]  # 6 bytes into it
    made["unaligned"] = random_tensor(torch.uint8, 100_003, device)[3:]
    made["large"] = random_tensor(torch.uint8, (48 << 20) + 5, device)
    return made


def like(tensors: Tensors, device: str) -> Tensors:
    """Zeros of the same layout, with the same sharing."""
    made = {
        name: torch.zeros(tensor.numel(), dtype=torch.uint8, device=device).to(tensor.dtype).reshape(tensor.shape)
        for name, tensor in tensors.items()
        if name not in ("tied", "view", "transposed")
    }
    made["transposed"] = torch.zeros(3, 5, 7, dtype=torch.float16, device=device).permute(2, 0, 1)
    made["tied"] = made["owner"]
    made["view"] = made["owner"][3:77]
    return {name: made[name] for name in tensors}


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
        assert first.digests({"large": weights["large"]}) == first.digests({"large": weights["large"].cpu()})


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


def run_checks(note: Callable[[str], None]) -> dict[str, str]:
    """``"passed"``, or what went wrong, by check."""
    outcomes: dict[str, str] = {}
    with private_worker(_WORKER_BYTES) as worker:
        checks: dict[str, Callable[[], None]] = {
            "every dtype, GPU to GPU": lambda: exchange(worker, "cuda", "cuda"),
            "every dtype, GPU to CPU": lambda: exchange(worker, "cuda", "cpu"),
            "every dtype, CPU to GPU": lambda: exchange(worker, "cpu", "cuda"),
            "every dtype, verified before the first byte is written": lambda: exchange(
                worker, "cuda", "cuda", staging="always"
            ),
            "every dtype, without digests": lambda: exchange(worker, "cuda", "cuda", verify="layout"),
            "every dtype, trusted by SHA-256": lambda: trusted(worker),
            "work under way on a stream": lambda: work_under_way(worker),
            "arrays of CuPy and __cuda_array_interface__": lambda: arrays_of_others(worker),
            "bad input": lambda: bad_input(worker),
            "a reader that is killed": lambda: killed_reader(worker),
            "a worker that is killed": killed_worker,
        }
        for name, check in checks.items():
            try:
                check()
                outcomes[name] = "passed"
            except Exception as error:
                traceback.print_exc()
                outcomes[name] = f"{type(error).__name__}: {error}"
            note(f"{name}: {outcomes[name][:200]}")
    return outcomes


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
