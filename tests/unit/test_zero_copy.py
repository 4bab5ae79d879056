"""Tensors that use the store's memory itself: right, private, and never what it is not any more."""

from __future__ import annotations

import ctypes
import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.tied_model import equal, model, state

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.transports import alias_watchdog

MIB = 1 << 20


def mappings() -> int:
    """Private mappings of a worker's memory that this process has."""
    with open("/proc/self/maps") as lines:
        return sum("memfd:" in line and line.split()[1].endswith("p") for line in lines)


def memory_of(tensor: torch.Tensor) -> Any:
    """What it aliases, None if it is its own."""
    address = tensor.data_ptr()
    watched = alias_watchdog._watched
    return next((each for each in watched if each.address <= address < each.address + each.nbytes), None)


@pytest.fixture
def open_zero_copy(open_loader: Callable[..., fl.FastLoader]) -> Callable[[], fl.FastLoader]:
    return lambda: open_loader(zero_copy=True, hold=False)


def test_a_write_is_private(open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str]) -> None:
    source, one, other = model(1), model(2), model(3)
    wanted = state(source)
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        publisher.publish(source, identity)
        loader.load(one, identity)
        with torch.no_grad():
            one[0].weight.fill_(7.0)
        loader.load(other, identity)
        assert equal(other, wanted)
        assert torch.all(one[0].weight == 7.0)
        assert torch.equal(one[2].weight, wanted["2.weight"])


def test_memory_goes_with_the_tensors(open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str]) -> None:
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        publisher.publish(model(1), identity)
        before = mappings()
        for _ in range(3):
            target = model(2)
            assert loader.load(target, identity).bytes_aliased
            assert mappings() > before
            del target
            gc.collect()
            assert mappings() == before


def test_what_cannot_be_aliased_is_copied(open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]) -> None:
    """Cut tensors, views that the model does not know, memory that torch did not make."""
    source = {name: torch.rand(300_000) for name in ("cut", "viewed", "free", "numpy")} | {"small": torch.rand(10)}
    with open_loader(chunk_bytes=2 * MIB) as publisher, open_loader() as loader:
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


def test_a_loader_copies_unless_it_is_told_otherwise(
    open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]
) -> None:
    source, target = model(1), model(2)
    with open_loader(zero_copy="on") as publisher, open_loader() as loader:
        publisher.publish(source, identity)
        assert loader.config.zero_copy == "auto"
        assert loader.load(target, identity).bytes_aliased == 0
        assert equal(target, state(source))


def test_loading_twice(open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str]) -> None:
    """Tensors that alias one generation alias the next one afterwards."""
    target = model(0)
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        for seed in (1, 2):
            source = model(seed)
            publisher.publish(source, identity)
            report = loader.load(target, identity)
            assert report.bytes_aliased == report.bytes
            assert equal(target, state(source))


class Subclass(torch.nn.Parameter):
    """As vLLM's parameters are, with what its loaders need."""


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def tensors_of_many_kinds(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)

    def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randint(0, 100, shape, generator=random).to(dtype)

    kinds = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64)
    found = {f"{dtype} {i}": made(8, 5, dtype=dtype) for dtype in kinds for i in range(3)}
    whole, subclass = made(12, 4), Subclass(made(3, 7, dtype=torch.bfloat16), requires_grad=False)
    subclass.output_dim = 0
    return found | {
        "whole": whole,
        "tied": whole,
        "rows": whole[3:6],
        "turned": torch.empty_strided((6, 9), (1, 6)).copy_(made(6, 9)),
        "scalar": made(dtype=torch.float64),
        "empty": made(0, 3),
        "parameter": torch.nn.Parameter(made(5, 5)),
        "subclass": subclass,
    }


def test_tensors_of_many_kinds(open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str]) -> None:
    target = tensors_of_many_kinds(0)
    kinds = {name: (type(tensor), tensor.dtype, tensor.shape, tensor.stride()) for name, tensor in target.items()}
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        for seed in (1, 2):
            source = tensors_of_many_kinds(seed)
            publisher.publish(source, identity)
            report = loader.load(target, identity)
            assert report.bytes_aliased == report.bytes
            for name, tensor in target.items():
                assert (type(tensor), tensor.dtype, tensor.shape, tensor.stride()) == kinds[name]
                assert torch.equal(bytes_of(tensor), bytes_of(source[name]))
            assert target["rows"].data_ptr() == target["whole"][3:6].data_ptr()
            assert target["subclass"].output_dim == 0
            assert target["parameter"].requires_grad


def test_damaged_bytes_are_not_taken(open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str]) -> None:
    source, target = model(1), model(2)
    with open_zero_copy() as publisher, open_zero_copy() as loader:
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
    open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in another container: the bytes are copied, and the report says why."""

    def refuse(*_: object, **__: object) -> None:
        raise fl.DeviceError("no process that this one may look into has it open", op="load")

    monkeypatch.setattr(_core, "map_chunks", refuse)
    source, target = model(1), model(2)
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        publisher.publish(source, identity)
        report = loader.load(target, identity)
        assert report.bytes_aliased == 0
        assert "may look into" in report.steps[-1]["why"]
        assert equal(target, state(source))


# -- standstills ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sleep_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Makes the watch believe that the process stood still."""
    offset = 0.0
    real = alias_watchdog._now
    monkeypatch.setattr(alias_watchdog, "_now", lambda: real() + offset)

    def sleep(seconds: float) -> None:
        nonlocal offset
        offset += seconds
        for _ in range(100):
            if not len(alias_watchdog._watched):
                return
            threading.Event().wait(0.1)
        raise AssertionError("the watch did not see it")

    return sleep


def test_a_standstill_has_it_copied(
    open_zero_copy: Callable[[], fl.FastLoader], identity: dict[str, str], sleep_for: Callable[[float], None]
) -> None:
    source, target = model(1), model(2)
    with open_zero_copy() as publisher, open_zero_copy() as loader:
        publisher.publish(source, identity)
        loader.load(target, identity)
        memories = list(alias_watchdog._watched)
        sleep_for(100)
        for memory in memories:  # whatever becomes of the worker's
            ctypes.memset(memory.shared_address, 0xEE, memory.nbytes)
        assert equal(target, state(source))


LOST = """
import ctypes, time
import torch
import yr_fastload_native as fl
from yr_fastload_native.transports import alias_watchdog
from yr_fastload_native.testing import MemoryStore

source, target = {"w": torch.rand(1 << 20)}, {"w": torch.zeros(1 << 20)}
with fl.FastLoader(fl.Config(zero_copy=True), store=MemoryStore()) as loader:
    publication = loader.publish(source, {"model": "m"})
    assert loader.load(target, {"model": "m"}).bytes_aliased
    (memory,) = alias_watchdog._watched
    ctypes.memset(memory.shared_address, 0xEE, memory.nbytes)  # as the worker does once it took us for dead
    real = alias_watchdog._now
    alias_watchdog._now = lambda: real() + 100
    while len(alias_watchdog._watched):
        time.sleep(0.1)
    print("looked", flush=True)
    print(target["w"].sum())
"""


def test_lost_memory_is_never_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGSEGV, done
    assert done.stdout == "looked\n"
    assert "may have changed" in done.stderr
