"""What was published is there again after its worker was killed."""

import os
import signal

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.worker import LocalWorker

from ..waiting import wait_until
from .worker_homes import MEMORY_MB

pytestmark = pytest.mark.worker


def test_who_published_publishes_again_when_the_worker_was_killed(home):
    settings = {"worker_home": str(home), "worker_memory_mb": MEMORY_MB, "transport": "host"}
    config = fl.Config(**settings)
    kept, changed = np.arange(1000.0), np.arange(2000.0)
    with fl.FastLoader(config) as first, fl.FastLoader(config) as second:
        publication = first.publish({"w": kept}, {"model": "kept"})
        other = first.publish({"w": changed}, {"model": "changed"})
        target = np.zeros(1000)
        second.load({"w": target}, {"model": "kept"})
        pid = LocalWorker.status(home).pid
        changed[0] = 7
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: publication.state == "lost", 5)
        assert wait_until(lambda: publication.state == "live", 30)
        assert LocalWorker.status(home).pid != pid
        assert wait_until(lambda: second.publication({"model": "kept"}).state == "live", 30)
        assert first.worker == second.worker == LocalWorker.status(home).address
        with fl.FastLoader(config) as third:
            fresh = np.zeros(1000)
            third.load({"w": fresh}, {"model": "kept"})
            assert (fresh == kept).all()
            assert not third.is_published({"model": "changed"})
        assert other.state == "lost"
        assert publication.sources() == 2
    assert LocalWorker.status(home) is None
