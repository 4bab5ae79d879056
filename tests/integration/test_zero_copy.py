"""Tensors that use the worker's memory itself: right, private, and safe from whatever happens to the worker."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from tests.tied_model import equal, model, state

import yr_fastload_native as fl
from yr_fastload_native import _core

pytestmark = pytest.mark.worker

MIB = 1 << 20


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
