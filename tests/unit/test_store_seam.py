"""A loader that is given a store needs nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core, sim
from yr_fastload_native.devices.kind import DeviceId
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.transports.device_contexts import DeviceContexts
from yr_fastload_native.weights.tensor_table import TensorTable


def test_no_worker_is_looked_for(store: MemoryStore, identity: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are settings that are about one looked at."""
    monkeypatch.setattr(_core, "connect_host_store", None)
    monkeypatch.setenv("DS_WORKER_ADDR", "no address")
    settings = fl.Config(worker="127.0.0.1:1", curve_key_dir="/nowhere")
    with fl.FastLoader(settings, store=store) as loader:
        assert (loader.worker, loader.stats()["worker"]) == ("", "")
        loader.publish({"w": np.ones(9)}, identity)
        target = np.zeros(9)
        report = loader.load({"w": target}, identity)
        assert (target == 1).all()
        assert (report.transport, report.verified) == ("host", True)
        assert loader.stats()["loads"] == 1
    assert store.keys() == []


def test_the_store_stays_the_callers(store: MemoryStore, identity: dict[str, str]) -> None:
    store.set("mine", b"1", ttl_s=60, deadline_s=1)
    loader = fl.FastLoader(fl.Config(), store=store)
    loader.publish({"w": np.ones(9)}, identity)
    loader.close()
    assert store.keys() == ["mine"]
    with pytest.raises(fl.InvalidArgumentError, match="closed"):
        loader.is_published(identity)


@pytest.mark.parametrize("setting", [{"transport": "d2d"}, {"transport": "staged"}, {"publish_as": "host+d2d"}])
def test_what_only_a_worker_has_is_refused(store: MemoryStore, setting: dict[str, str]) -> None:
    with pytest.raises(fl.InvalidArgumentError, match="needs a connection to an openYuanrong worker"):
        fl.FastLoader(fl.Config(**setting), store=store)


def test_what_only_a_worker_has_is_refused_of_one_publication(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    for transport in ("d2d", "staged", "host+d2d"):
        with pytest.raises(fl.DeviceError, match="'auto' or 'host'"):
            loader.publish({"w": np.ones(9)}, identity, publish_as=transport)
    assert loader.publication(identity) is None


def test_only_tensors_in_cpu_memory_move(
    loader: fl.FastLoader, identity: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sim, "active", lambda: True)  # where else those in CPU memory stand for a device's
    loader.publish({"w": np.ones(9)}, identity)
    assert loader.load({"w": np.zeros(9)}, identity).transport == "host"
    on_npu = cast(TensorTable, SimpleNamespace(device=DeviceId(NPU, 3)))
    with pytest.raises(fl.DeviceError, match="on NPU 3, and a store that was given moves only those in CPU memory"):
        DeviceContexts(fl.Config(), None).of(on_npu)


def test_two_loaders_of_one_store_meet(store: MemoryStore, identity: dict[str, str]) -> None:
    """Two loaders of one store are what two processes of one machine are."""
    with fl.FastLoader(fl.Config(), store=store) as first, fl.FastLoader(fl.Config(), store=store) as second:
        first.publish({"w": np.arange(9)}, identity)
        target = np.zeros(9, np.int64)
        second.load({"w": target}, identity)
        assert (target == np.arange(9)).all()
        assert first.publication(identity).sources() == 2
