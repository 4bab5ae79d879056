"""Whether something is published, whether it stayed what it was, and what a failed load left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore


def test_is_published(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    assert not loader.is_published(identity)
    assert loader.publication(identity) is None
    publication = loader.publish({"w": np.ones(10)}, identity)
    assert loader.is_published(identity)
    assert loader.publication(identity) is publication
    assert not publication.by_reference
    assert publication.changed() == []
    publication.close()
    assert not loader.is_published(identity)


def test_digests_name_what_changed(loader: fl.FastLoader) -> None:
    tensors = {"a": torch.arange(1000), "b": torch.arange(10.0), "none": torch.empty(0)}
    tensors["tied"] = tensors["a"]
    before = loader.digests(tensors)
    assert set(before) == {"a", "b"}
    tensors["b"][3] = 0
    after = loader.digests(tensors)
    assert before["a"] == after["a"]
    assert before["b"] != after["b"]


def test_publish_as_for_one_publication(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    with pytest.raises(fl.DeviceError, match="staged"):
        loader.publish({"w": np.ones(10)}, identity, publish_as="staged")
    with pytest.raises(fl.InvalidArgumentError, match="publish_as="):
        loader.publish({"w": np.ones(10)}, identity, publish_as="carrier pigeon")
    assert loader.publish({"w": np.ones(10)}, identity, publish_as="host").state == "live"


def test_errors_say_whether_memory_was_written(
    loader: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    publication = loader.publish({"w": np.ones(1000)}, identity)
    with pytest.raises(fl.LayoutMismatchError) as before:
        loader.load({"w": np.zeros(999)}, identity)
    assert not before.value.memory_written
    chunk = Identity.of(identity, op="test").chunk_prefix(publication.generation) + "0"
    store.erase([chunk], deadline_s=5)
    with pytest.raises(fl.PartialTransferError) as after:
        loader.load({"w": np.zeros(1000)}, identity)
    assert after.value.memory_written
