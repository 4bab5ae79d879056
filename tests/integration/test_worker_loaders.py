"""Loaders that start a worker where there is none, but not where somebody has stopped it."""

import time

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.worker import LocalWorker
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import strays

from ..waiting import wait_until
from .worker_homes import MEMORY_MB, gone, run_python

pytestmark = pytest.mark.worker


def test_nobody_starts_another_where_the_worker_was_stopped_on_purpose(home):
    config = fl.Config(worker_home=str(home), worker_memory_mb=MEMORY_MB, transport="host")
    weights = {"w": np.ones(9)}
    with fl.FastLoader(config) as first:
        publication = first.publish(weights, {"model": "stopped"})
        run_python(
            f"from yr_fastload_native.worker import LocalWorker; LocalWorker(home={str(home)!r}).stop(force=True)"
        )
        assert wait_until(lambda: publication.state == "lost", 5)
        time.sleep(1)
        assert strays(Home(home).ready) == []
        assert not first.is_published({"model": "stopped"}), "who asks for one gets one"
        assert wait_until(lambda: publication.state == "live", 10)


def test_a_loader_without_a_worker_starts_one_and_shares_it(home, monkeypatch):
    """`worker="auto"` without DS_WORKER_ADDR: one worker a machine and user, gone with its last loader."""
    monkeypatch.delenv("DS_WORKER_ADDR", raising=False)
    monkeypatch.setenv("YR_FASTLOAD_WORKER_HOME", str(home))
    config = fl.Config(worker_memory_mb=MEMORY_MB)
    first = fl.FastLoader(config)
    second = fl.FastLoader(config)
    pid = LocalWorker.status().pid
    assert first.worker == second.worker == LocalWorker.status().address
    first.publish({"w": bytearray(b"weights")}, {"model": "auto"})
    target = bytearray(7)
    second.load({"w": target}, {"model": "auto"})
    assert target == b"weights"
    first.close()
    assert LocalWorker.status().pid == pid
    second.close()
    assert LocalWorker.status() is None
    assert gone(pid)
