"""Kinds of devices: what frameworks call them, and what a new one has to bring."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yr_fastload_native import Config, DeviceError, InvalidArgumentError, _core
from yr_fastload_native.devices import registry
from yr_fastload_native.devices.cpu import CPU, ORDINARY_MEMORY
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.hetero import hetero
from yr_fastload_native.devices.kind import DeviceId, DeviceKind
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.transports.device_contexts import DeviceContexts
from yr_fastload_native.transports.selection import to_offer, to_try
from yr_fastload_native.weights.tensor_table import TensorTable


class Toy(DeviceKind):
    """An accelerator over ordinary memory: torch's meta device, of which only empty tensors have all their bytes."""

    name = "meta"
    where = "on toys"

    def __init__(self, *, simulated: bool = False) -> None:
        self.simulated = simulated
        self.opened: list[int] = []
        self.waited: list[int] = []

    def label(self, index: int) -> str:
        return f"toy {index}"

    def is_available(self) -> bool:
        return True

    def current(self) -> int:
        return 3

    def stands_in(self) -> bool:
        return self.simulated

    def open_device(self, index: int) -> _core.Device:
        self.opened.append(index)
        return _core.cpu_device()

    def synchronize(self, index: int) -> None:
        self.waited.append(index)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def add(kind: DeviceKind) -> DeviceKind:
        kinds = (ORDINARY_MEMORY, kind)
        monkeypatch.setattr(registry, "KINDS", kinds)
        monkeypatch.setattr("yr_fastload_native.transports.device_contexts.KINDS", kinds)
        monkeypatch.setattr(registry, "_BY_NAME", {each.name: each for each in kinds})
        registry.of_torch.cache_clear()
        return kind

    yield add
    registry.of_torch.cache_clear()


@pytest.fixture
def connection() -> _core.Connection:
    """To nobody: nothing is asked of a worker here."""
    return _core.Connection("127.0.0.1", 1, connect_timeout_s=1.0, rpc_timeout_s=1.0)


def table(tensors: dict[str, object]) -> TensorTable:
    return TensorTable(tensors, op="publish", writable=False, max_tensors=10)


def test_what_frameworks_call_them() -> None:
    assert registry.of_torch(torch.device("cpu")) is CPU
    assert registry.of_torch(torch.device("meta")) is None
    assert [registry.of_dlpack(number, 0) for number in (1, 3, 11)] == [CPU] * 3
    assert registry.of_dlpack(2, 1) == registry.of_torch(torch.device("cuda", 1)) == DeviceId(CUDA, 1)
    assert registry.of_dlpack(4, 0) is None  # OpenCL's memory
    assert NPU.at(None) == NPU.at(0) == DeviceId(NPU, 0) != CPU
    assert (str(CPU), str(NPU.at(2)), str(CUDA.at(0))) == ("the CPU", "NPU 2", "CUDA device 0")
    assert registry.reached() == "in CPU memory, on NPUs and on CUDA's GPUs"
    assert registry.reached(dlpack=True) == registry.reached()
    assert registry.of_dlpack(12, 1) == DeviceId(NPU, 1)


def test_a_new_kind_is_one_registration(register, connection: _core.Connection) -> None:
    kind = register(Toy())
    empty = table({"a": torch.zeros(0, device="meta")})
    assert empty.device == DeviceId(kind, 0)
    assert [each.name for each in to_offer(Config(), kind)] == ["host"]
    tried = to_try(Config(), ["d2d", "host"], kind)
    assert [each.transport.name for each in tried if each.why_not is None] == ["host"]
    with pytest.raises(DeviceError, match="'d2d' moves no tensors on toys"):
        to_offer(Config(transport="d2d"), kind)

    contexts = DeviceContexts(Config(), connection)
    context = contexts.of(empty)
    assert contexts.of(empty) is context
    assert (kind.opened, kind.waited) == ([0], [-1, -1])  # by the number that the native device has
    assert context.stats()["landing"] is None
    with pytest.raises(DeviceError, match="no tensors on toys by itself"):
        hetero(context, op="load")


def test_tensors_whose_bytes_lie_otherwise_are_refused(register) -> None:
    kind = register(Toy())
    kind.private_format = lambda tensors: (len(list(tensors)) - 1, "FRACTAL_NZ")
    with pytest.raises(InvalidArgumentError, match=r"'b' is in the private format FRACTAL_NZ.*VLLM_ASCEND_ENABLE_NZ=0"):
        table({"a": torch.zeros(0, device="meta"), "b": torch.zeros(0, device="meta")})


def test_an_npu_s_private_formats_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [SimpleNamespace(is_npu=True, format=number) for number in (2, 0, 29, 12)]
    assert NPU.private_format(tensors) is None  # nobody has imported torch_npu
    monkeypatch.setitem(sys.modules, "torch_npu", SimpleNamespace(get_npu_format=lambda tensor: tensor.format))
    assert NPU.private_format(tensors[:2]) is None
    assert NPU.private_format(iter(tensors)) == (2, "FRACTAL_NZ")
    assert NPU.private_format([*tensors[:1], tensors[3]]) == (1, "12")
    assert NPU.private_format([object()]) is None  # another framework's


def test_tensors_of_two_kinds_are_refused(register) -> None:
    register(Toy())
    with pytest.raises(InvalidArgumentError, match="'b' is on toy 0 and 'a' on the CPU"):
        table({"a": torch.zeros(2), "b": torch.zeros(0, device="meta")})


def test_tensors_in_ordinary_memory_count_as_on_a_simulated_device(register, connection: _core.Connection) -> None:
    mine = table({"a": np.zeros(3)})
    for settings, opened in [({}, [3]), ({"device_index": 5}, [5]), ({"transport": "host"}, [])]:
        kind = register(Toy(simulated=True))
        context = DeviceContexts(Config(**settings), connection).of(mine)
        assert kind.opened == opened
        assert context.kind is (kind if opened else ORDINARY_MEMORY)


def test_a_loader_prepares_for_the_device_of_its_thread(register, connection: _core.Connection) -> None:
    kind = register(Toy())
    contexts = DeviceContexts(Config(), connection)
    contexts.prepare()
    assert kind.opened == [3]
    contexts.close()
    assert contexts.stats() == {}


def test_an_npu_waits_for_what_torch_has_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[int, int, bool]] = []

    def device(index: int) -> SimpleNamespace:
        return SimpleNamespace(
            wait_for_stream=lambda handle, deadline_s: waited.append((index, handle, 0 < deadline_s <= 60))
        )

    monkeypatch.setattr(_core, "acl_device", device)
    NPU.synchronize(1)  # without torch_npu nothing was
    npu = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(npu=npu))
    NPU.synchronize(1)  # nor before it uses a device
    assert waited == []
    npu.is_initialized = lambda: True
    npu.current_stream = lambda index: SimpleNamespace(npu_stream=70 + index)
    NPU.synchronize(1)
    assert waited == [(1, 71, True)]


def test_a_gpu_waits_for_the_legacy_stream_and_for_what_torch_has_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[tuple[int, int]] = []

    def device(index: int) -> SimpleNamespace:
        return SimpleNamespace(wait_for_stream=lambda handle, deadline_s: waited.append((index, handle)))

    monkeypatch.setattr(_core, "cuda_device", device)
    assert CUDA.current() == -1  # torch has not initialised CUDA, and nobody is asked whether it could
    CUDA.synchronize(1)
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        current_device=lambda: 3,
        current_stream=lambda index: SimpleNamespace(cuda_stream=70 + index),
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    CUDA.synchronize(1)
    assert waited == [(1, 1), (1, 1), (1, 71)]
    assert CUDA.current() == 3
