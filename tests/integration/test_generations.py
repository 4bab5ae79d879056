"""Who publishes, who keeps it published, and what happens when weights change; through a real worker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tests.two_arrays import published, weights

import yr_fastload_native as fl

from ..waiting import wait_until

pytestmark = pytest.mark.worker


@pytest.fixture
def guest(worker: str) -> fl.FastLoader:
    """A reader that never becomes a source."""
    with fl.FastLoader(fl.Config(worker=worker, hold=False)) as opened:
        yield opened


def test_not_published_is_known_at_once(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    target = weights(7)
    started = time.monotonic()
    with pytest.raises(fl.NotPublishedError) as caught:
        loader.load(target, identity)
    assert time.monotonic() - started < 5  # 3 ms measured; the bound only tells it from a timeout
    assert caught.value.retryable
    assert caught.value.op == "load"
    assert (target["a"] == 7).all()


def test_a_killed_publisher_is_gone_within_its_lease(
    worker: str, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    script = f"""
import sys, time, numpy as np, yr_fastload_native as fl
loader = fl.FastLoader(fl.Config(worker={worker!r}, lease_s=2))
p = loader.publish({{"a": np.full(1 << 20, 1, np.uint8), "b": np.full((1 << 20) // 3, 1, np.uint8)}}, {identity!r})
print("ready", flush=True)
time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(3)  # longer than the lease: it is renewed
        assert published(guest, identity)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert wait_until(lambda: not published(guest, identity), 10)


def test_interpreter_exit_withdraws(worker: str, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    script = f"""
import numpy as np, yr_fastload_native as fl
loader = fl.FastLoader(fl.Config(worker={worker!r}))
p = loader.publish({{"a": np.full(1 << 20, 1, np.uint8), "b": np.full((1 << 20) // 3, 1, np.uint8)}}, {identity!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert not published(guest, identity)


def test_readers_never_see_a_mixture(loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    """While weights are published anew and anew, a reader gets one version whole, or a typed error."""
    size, rounds = 8 << 20, 12
    bounds = fl.Config(worker=loader.worker, chunk_bytes=1 << 18)
    done = threading.Event()
    outcomes: list[str] = []

    def read() -> None:
        target = weights(0, size)
        while not done.is_set():
            try:
                guest.load(target, identity)
            except fl.FastLoadError as error:
                outcomes.append(error.code)
                continue
            values = {int(v) for part in target.values() for v in np.unique(part)}
            outcomes.append("whole" if len(values) == 1 else f"MIXTURE {values}")

    with fl.FastLoader(bounds) as publisher:
        publisher.publish(weights(1, size), identity)
        reader = threading.Thread(target=read)
        reader.start()
        for value in range(2, 2 + rounds):
            publisher.publish(weights(value, size), identity)
        done.set()
        reader.join()
    assert "whole" in outcomes
    assert not [outcome for outcome in outcomes if outcome.startswith("MIXTURE")], outcomes
    assert set(outcomes) <= {"whole", "NOT_PUBLISHED", "PARTIAL_TRANSFER"}, outcomes
