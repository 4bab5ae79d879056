"""Of processes that start together on an empty cluster one reads the disk, and the others wait for it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore


def test_one_of_many_reads_the_disk(open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]) -> None:
    instances = 6
    together = threading.Barrier(instances)
    did: list[str] = []

    def start() -> None:
        with open_loader() as loader:
            target = {"w": np.zeros(1 << 20, np.uint8)}
            together.wait(30)
            try:
                loader.wait_for_publisher(identity, timeout_s=30)
                loader.load(target, identity)
                did.append("pulled")
            except fl.NotPublishedError:
                time.sleep(0.1)  # the disk
                target["w"][:] = 7
                loader.publish(target, identity)
                did.append("read")
            assert (target["w"] == 7).all()
            together.wait(30)

    threads = [threading.Thread(target=start) for _ in range(instances)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(did) == {"read": 1, "pulled": instances - 1}


def test_who_does_not_publish_releases(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        loader.wait_for_publisher(identity, timeout_s=30)
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        loader.wait_for_publisher(identity, timeout_s=30)  # still its turn
    with pytest.raises(fl.NotPublishedError, match=r"within 0\.2 s"):
        other_loader.wait_for_publisher(identity, timeout_s=0.2)
    loader.release(identity)
    loader.release(identity)
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        other_loader.wait_for_publisher(identity, timeout_s=0.2)


def test_a_publish_that_fails_releases(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    with pytest.raises(fl.NotPublishedError):
        loader.wait_for_publisher(identity, timeout_s=30)
    with pytest.raises(fl.DeviceError):
        loader.publish({"w": np.ones(10)}, identity, publish_as="staged")
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        other_loader.wait_for_publisher(identity, timeout_s=0.2)


def test_nothing_is_left(
    open_loader: Callable[..., fl.FastLoader], store: MemoryStore, identity: dict[str, str]
) -> None:
    key = Identity.of(identity, op="test").claim_key
    for ends_by in ("publish", "close"):
        before = threading.active_count()
        with open_loader() as claiming:
            with pytest.raises(fl.NotPublishedError):
                claiming.wait_for_publisher(identity, timeout_s=30)
            assert store.exist([key], deadline_s=5) == [True]
            if ends_by == "publish":
                claiming.publish({"w": np.ones(10)}, identity)
                assert store.exist([key], deadline_s=5) == [False]
                claiming.wait_for_publisher(identity, timeout_s=0)  # at once: it is published
        assert store.exist([key], deadline_s=5) == [False]
        assert threading.active_count() == before


def test_a_claim_of_another_is_not_erased(loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]) -> None:
    key = Identity.of(identity, op="test").claim_key
    with pytest.raises(fl.NotPublishedError):
        loader.wait_for_publisher(identity, timeout_s=30)
    store.set(key, b"another's, after this one had expired", ttl_s=30, deadline_s=5)
    loader.release(identity)
    assert store.exist([key], deadline_s=5) == [True]
    store.erase([key], deadline_s=5)


def test_one_that_does_not_renew_hands_over_within_its_lease(
    loader: fl.FastLoader, other_loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        loader.wait_for_publisher(identity, timeout_s=30)
    with pytest.raises(fl.NotPublishedError, match=r"nor did the process that reads it within 0 s"):
        other_loader.wait_for_publisher(identity, timeout_s=0)
    store.advance(loader.config.lease_s)
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        other_loader.wait_for_publisher(identity, timeout_s=0)
