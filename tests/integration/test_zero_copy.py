"""Tensors that use the worker's memory itself: right, private, and safe from whatever happens to the worker."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native import _core, standstill

pytestmark = pytest.mark.worker

MIB = 1 << 20


def model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    made = torch.nn.Sequential(torch.nn.Linear(700, 900), torch.nn.LayerNorm(900), torch.nn.Linear(900, 300))
    made.register_buffer("table", torch.rand(1000, 999))
    made.tied = made[2].weight
    return made


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def equal(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, wanted[name]) for name, value in module.state_dict().items())


def mappings() -> int:
    """Private mappings of a worker's memory that this process has."""
    with open("/proc/self/maps") as lines:
        return sum("memfd:" in line and line.split()[1].endswith("p") for line in lines)


def memory_of(tensor: torch.Tensor) -> Any:
    """What it aliases, None if it is its own."""
    address = tensor.data_ptr()
    return next((each for each in standstill._watched if each.address <= address < each.address + each.nbytes), None)


@pytest.fixture
def zero_copy(worker: str) -> fl.Config:
    return fl.Config(worker=worker, zero_copy=True, hold=False)


def test_no_byte_is_copied(zero_copy: fl.Config, identity: dict[str, str]) -> None:
    source, target = model(1), model(2)
    before = dict(target.named_parameters())
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(source, identity)
        report = loader.load(target, identity)
        assert report.verified
        assert report.bytes_aliased == report.bytes
        assert all(before[name] is parameter for name, parameter in target.named_parameters())
        assert target.tied.data_ptr() == target[2].weight.data_ptr()
        assert equal(target, state(source))


def test_a_write_is_private(zero_copy: fl.Config, identity: dict[str, str]) -> None:
    source, one, other = model(1), model(2), model(3)
    wanted = state(source)
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(source, identity)
        loader.load(one, identity)
        with torch.no_grad():
            one[0].weight.fill_(7.0)
        loader.load(other, identity)
        assert equal(other, wanted)
        assert torch.all(one[0].weight == 7.0)
        assert torch.equal(one[2].weight, wanted["2.weight"])


def test_it_outlives_publisher_loader_and_a_full_pool(own_worker: fl.LocalWorker, identity: dict[str, str]) -> None:
    """The worker must not give the memory to anybody else while a tensor uses it."""
    config = fl.Config(worker=own_worker.address, zero_copy=True, hold=False)
    source, target = model(1), model(2)
    wanted = state(source)
    with fl.FastLoader(config) as publisher:
        publication = publisher.publish(source, identity)
        with fl.FastLoader(config) as loader:
            assert loader.load(target, identity).bytes_aliased
        publication.close()
        for turn in range(6):  # more than there is room for, were none of it given back
            other = {"x": torch.full((100 * MIB,), turn, dtype=torch.uint8)}
            publisher.publish(other, {**identity, "turn": str(turn)}).close()
    assert equal(target, wanted)
    own_worker.stop(force=True)
    assert equal(target, wanted)


def test_the_last_tensor_of_a_dead_worker_is_dropped_in_bounded_time(
    own_worker: fl.LocalWorker, identity: dict[str, str]
) -> None:
    """Its client goes with it, and takes 17 s to find out that nobody answers."""
    config = fl.Config(worker=own_worker.address, zero_copy=True, hold=False)
    target = {"x": torch.zeros(MIB)}
    with fl.FastLoader(config) as publisher, fl.FastLoader(config) as loader:
        publisher.publish({"x": torch.rand(MIB)}, identity)
        assert loader.load(target, identity).bytes_aliased
    own_worker.stop(force=True)
    since = time.monotonic()
    target.clear()
    assert time.monotonic() - since < 10
    assert _core.threads_left_behind()


def test_memory_goes_with_the_tensors(zero_copy: fl.Config, identity: dict[str, str]) -> None:
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(model(1), identity)
        before = mappings()
        for _ in range(3):
            target = model(2)
            assert loader.load(target, identity).bytes_aliased
            assert mappings() > before
            del target
            gc.collect()
            assert mappings() == before


def test_what_cannot_be_aliased_is_copied(config: fl.Config, identity: dict[str, str]) -> None:
    """Cut tensors, views that the model does not know, memory that torch did not make."""
    source = {name: torch.rand(300_000) for name in ("cut", "viewed", "free", "numpy")} | {"small": torch.rand(10)}
    chunks = fl.Config(worker=config.worker, chunk_bytes=2 * MIB)
    with fl.FastLoader(chunks) as publisher, fl.FastLoader(config) as loader:
        source["cut"] = torch.rand(3 * MIB)
        publisher.publish(source, identity)
        array = np.zeros(300_000, np.float32)
        target = {name: torch.zeros_like(tensor) for name, tensor in source.items()} | {
            "numpy": torch.from_numpy(array)
        }
        view = target["viewed"][:10]
        report = loader.load(target, identity, zero_copy=True)
        assert all(torch.equal(target[name], tensor) for name, tensor in source.items())
        assert torch.equal(view, source["viewed"][:10])
        assert np.array_equal(array, source["numpy"].numpy())
        assert report.bytes_aliased == source["free"].nbytes + source["small"].nbytes
        arrays = {name: np.zeros_like(tensor.numpy()) for name, tensor in source.items()}
        assert loader.load(arrays, identity, zero_copy=True).bytes_aliased == 0
        assert all(np.array_equal(arrays[name], tensor.numpy()) for name, tensor in source.items())


def test_loading_twice(zero_copy: fl.Config, identity: dict[str, str]) -> None:
    """Tensors that alias one generation alias the next one afterwards."""
    target = model(0)
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        for seed in (1, 2):
            source = model(seed)
            publisher.publish(source, identity)
            report = loader.load(target, identity)
            assert report.bytes_aliased == report.bytes
            assert equal(target, state(source))


def test_damaged_bytes_are_not_taken(zero_copy: fl.Config, identity: dict[str, str]) -> None:
    source, target = model(1), model(2)
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(source, identity)
        loader.load(target, identity)
        # What nobody may do: write where all have it.
        memory = memory_of(target[0].weight)
        byte = ctypes.c_uint8.from_address(memory.shared_address + 100)
        byte.value ^= 0xFF
        second = model(3)
        with pytest.raises(fl.IntegrityError, match="does not match its digest"):
            loader.load(second, identity)
        assert memory_of(second[0].weight) is None


def test_a_pool_that_cannot_be_opened(
    zero_copy: fl.Config, identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container: the bytes are copied, and the report says why."""

    def refuse(*_: object, **__: object) -> None:
        raise fl.DeviceError("no process that this one may look into has it open", op="load")

    monkeypatch.setattr(_core, "map_objects", refuse)
    source, target = model(1), model(2)
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(source, identity)
        report = loader.load(target, identity)
        assert report.bytes_aliased == 0
        assert "may look into" in report.steps[-1]["why"]
        assert equal(target, state(source))


WITHOUT_TORCH = """
import sys
import numpy as np
import yr_fastload_native as fl

source, target = {"w": np.ones(1 << 20, np.uint8)}, {"w": np.zeros(1 << 20, np.uint8)}
with fl.FastLoader(fl.Config(worker=sys.argv[1], zero_copy=True)) as loader:
    publication = loader.publish(source, {"model": sys.argv[2]})
    assert loader.load(target, {"model": sys.argv[2]}).bytes_aliased == 0
assert (target["w"] == 1).all()
assert "torch" not in sys.modules
"""


def test_a_process_without_torch_copies(worker: str, identity: dict[str, str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, worker, identity["unique"]]
    subprocess.run(command, check=True, timeout=60)


# -- standstills ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sleep_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the watch believe that the process stood still."""
    offset = 0.0
    real = standstill._now
    monkeypatch.setattr(standstill, "_now", lambda: real() + offset)

    def sleep(seconds: float) -> None:
        nonlocal offset
        offset += seconds
        for _ in range(100):
            if not len(standstill._watched):
                return
            threading.Event().wait(0.1)
        raise AssertionError("the watch did not see it")

    return sleep


def test_a_standstill_has_it_copied(
    zero_copy: fl.Config, identity: dict[str, str], sleep_for: Callable[[float], None]
) -> None:
    source, target = model(1), model(2)
    with fl.FastLoader(zero_copy) as publisher, fl.FastLoader(zero_copy) as loader:
        publisher.publish(source, identity)
        loader.load(target, identity)
        memories = list(standstill._watched)
        sleep_for(100)
        for memory in memories:  # whatever becomes of the worker's
            ctypes.memset(memory.shared_address, 0xEE, memory.nbytes)
        assert equal(target, state(source))


LOST = """
import ctypes, sys, time
import torch
import yr_fastload_native as fl
from yr_fastload_native import _core, standstill

worker, model = sys.argv[1:]
source, target = {"w": torch.rand(1 << 20)}, {"w": torch.zeros(1 << 20)}
config = fl.Config(worker=worker, zero_copy=True)
with fl.FastLoader(config) as loader:
    publication = loader.publish(source, {"model": model})
    assert loader.load(target, {"model": model}).bytes_aliased
    (memory,) = standstill._watched
    ctypes.memset(memory.shared_address, 0xEE, memory.nbytes)  # as the worker does once it took us for dead
    real = standstill._now
    standstill._now = lambda: real() + 100
    while len(standstill._watched):
        time.sleep(0.1)
    print("looked", flush=True)
    print(target["w"].sum())
"""


def test_lost_memory_is_never_used(worker: str, identity: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOST), worker, identity["unique"]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == -signal.SIGSEGV, done
    assert done.stdout == "looked\n"
    assert "may not be what they were" in done.stderr
