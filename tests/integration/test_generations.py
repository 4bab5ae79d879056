"""Who publishes, who keeps it published, and what happens when weights change; through a real worker."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.identity import Identity

from ..waiting import wait_until

pytestmark = pytest.mark.worker


def weights(value: int, size: int = 1 << 20) -> dict[str, np.ndarray]:
    return {"a": np.full(size, value, np.uint8), "b": np.full(size // 3, value, np.uint8)}


def published(loader: fl.FastLoader, identity: dict[str, str]) -> bool:
    try:
        loader.load(weights(0), identity)
    except fl.NotPublishedError:
        return False
    return True


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


def test_same_bytes_again_join(loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    first = loader.publish(weights(1), identity)
    second = other_loader.publish(weights(1), identity)
    assert not first.joined
    assert second.joined
    assert second.generation == first.generation
    assert first.sources() == 2
    first.close()
    assert second.state == "live"
    assert published(other_loader, identity)


def test_changed_bytes_make_a_new_generation(
    loader: fl.FastLoader, other_loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    first = loader.publish(weights(1), identity)
    second = other_loader.publish(weights(2), identity)
    assert second.generation != first.generation
    target = weights(0)
    assert guest.load(target, identity).generation == second.generation
    assert (target["a"] == 2).all()
    assert (target["b"] == 2).all()
    lease_s = loader.config.lease_s
    assert wait_until(lambda: first.state == "superseded", lease_s), "the first source learns that it is superseded"


def test_same_process_publishes_anew(loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    first = loader.publish(weights(1), identity)
    second = loader.publish(weights(2), identity)
    assert (first.state, second.state) == ("left", "live")
    target = weights(0)
    guest.load(target, identity)
    assert (target["a"] == 2).all()


def test_closing_the_last_source_withdraws(
    loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    who = Identity.of(identity, op="test")
    keys = [who.head_key, who.manifest_key(publication.generation), who.chunk_prefix(publication.generation) + "0"]
    store = loader._worker("test").catalogue.store
    assert store.exist(keys, deadline_s=5) == [True] * 3
    assert published(guest, identity)
    publication.close()
    publication.close()
    assert publication.state == "left"
    assert store.exist(keys, deadline_s=5) == [False] * 3
    assert not published(guest, identity)


def test_a_reader_becomes_a_source(
    loader: fl.FastLoader, other_loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    other_loader.load(weights(0), identity)
    assert publication.sources() == 2
    publication.close()
    assert published(guest, identity)
    other_loader.close()
    assert not published(guest, identity)


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


def test_two_processes_publish_at_once(worker: str, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    """Equal weights: one generation, two sources, whoever comes first."""
    for attempt in range(3):
        who = {**identity, "attempt": str(attempt)}
        loaders = [fl.FastLoader(fl.Config(worker=worker)) for _ in range(3)]
        barrier = threading.Barrier(len(loaders))
        publications: list[fl.Publication] = []

        def publish(
            loader: fl.FastLoader,
            barrier: threading.Barrier = barrier,
            who: dict[str, str] = who,
            publications: list[fl.Publication] = publications,
        ) -> None:
            barrier.wait()
            publications.append(loader.publish(weights(5), who))

        threads = [threading.Thread(target=publish, args=(loader,)) for loader in loaders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({publication.generation for publication in publications}) == 1
        assert sum(not publication.joined for publication in publications) == 1
        assert publications[0].sources() == len(loaders)
        target = weights(0)
        guest.load(target, who)
        assert (target["a"] == 5).all()
        for loader in loaders:
            loader.close()
        assert not published(guest, who)


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
