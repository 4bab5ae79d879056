"""Whether something is published, whether it stayed what it was, and what a failed load left behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native import sim

pytestmark = pytest.mark.worker


def test_is_published(config: fl.Config, identity: dict[str, str]) -> None:
    with fl.FastLoader(config) as loader:
        assert not loader.is_published(identity)
        assert loader.publication(identity) is None
        publication = loader.publish({"w": np.ones(10)}, identity)
        assert loader.is_published(identity)
        assert loader.publication(identity) is publication
        assert not publication.by_reference
        assert publication.changed() == []
        publication.close()
        assert not loader.is_published(identity)


def test_digests_name_what_changed(config: fl.Config) -> None:
    tensors = {"a": torch.arange(1000), "b": torch.arange(10.0), "none": torch.empty(0)}
    tensors["tied"] = tensors["a"]
    with fl.FastLoader(config) as loader:
        before = loader.digests(tensors)
        assert set(before) == {"a", "b"}
        tensors["b"][3] = 0
        after = loader.digests(tensors)
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]


def test_publish_as_for_one_publication(config: fl.Config, identity: dict[str, str]) -> None:
    with fl.FastLoader(config) as loader:
        with pytest.raises(fl.DeviceError, match="staged"):
            loader.publish({"w": np.ones(10)}, identity, publish_as="staged")
        with pytest.raises(fl.InvalidArgumentError, match="publish_as="):
            loader.publish({"w": np.ones(10)}, identity, publish_as="carrier pigeon")
        assert loader.publish({"w": np.ones(10)}, identity, publish_as="host").state == "live"


def test_errors_say_whether_memory_was_written(config: fl.Config, identity: dict[str, str]) -> None:
    with fl.FastLoader(config) as loader:
        publication = loader.publish({"w": np.ones(1000)}, identity)
        with pytest.raises(fl.LayoutMismatchError) as before:
            loader.load({"w": np.zeros(999)}, identity)
        assert not before.value.memory_written
        store = loader._store
        assert store is not None
        from yr_fastload_native.identity import Identity

        chunk = Identity.of(identity, op="test").chunk_prefix(publication.generation) + "0"
        store.erase([chunk], deadline_s=5)
        with pytest.raises(fl.PartialTransferError) as after:
            loader.load({"w": np.zeros(1000)}, identity)
        assert after.value.memory_written


def test_a_publication_by_reference_knows_what_changed(worker: str, identity: dict[str, str]) -> None:
    script = f"""
import gc, torch, yr_fastload_native as fl
tensors = {{"a": torch.arange(1 << 20), "b": torch.ones(1 << 20), "c": torch.zeros(1 << 20)}}
with fl.FastLoader(fl.Config(worker={worker!r}, transport="d2d", max_blobs=1)) as loader:
    publication = loader.publish(tensors, {identity!r})
    assert publication.wait_settled(30) and publication.by_reference
    print(publication.changed(), flush=True)
    tensors["b"].numpy()[5] = 3  # past torch's own counter of writes
    tensors["c"].data = torch.zeros(1 << 20)
    print(sorted(publication.changed()), publication.kept_beside(set()) > 0)
    publication.close()
    print(publication.changed(), publication.kept_beside(set()), gc.get_referrers(tensors["a"]) == [tensors])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=sim.environment(),
        check=True,
        timeout=120,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.splitlines() == ["[]", "['b', 'c'] True", "[] 0 True"]
