"""One load, over a store inside the process."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.catalogue import Catalogue
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import build_manifest
from yr_fastload_native.process.deadline import Deadline
from yr_fastload_native.testing import MemoryStore
from yr_fastload_native.weights.tensor_table import TensorTable

Open = Callable[..., fl.FastLoader]


def weights(value: int) -> dict[str, np.ndarray]:
    return {name: np.full(1024, value, np.uint8) for name in "abcd"}


def test_the_report_has_each_step(loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish(weights(1), identity)
    report = guest.load(weights(0), identity)
    steps = {step["transport"]: (step["outcome"], step["why"]) for step in report.steps}
    assert steps == {
        "d2d": ("skipped", "the publication does not offer it"),
        "staged": ("skipped", "the publication does not offer it"),
        "host": ("loaded", None),
    }
    assert sum(step["bytes"] for step in report.steps) == report.bytes == 4096
    assert {"layout", "manifest", "fetch", "copy"} <= report.stages.keys()
    assert (report.chunks, report.chunks_retried, report.bytes_aliased) == (1, 0, 0)


def test_what_is_only_between_devices_cannot_be_loaded_here(
    guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    who, target = Identity.of(identity, op="test"), weights(9)
    table = TensorTable(weights(1), op="test", writable=False, max_tensors=9)
    plan = _core.make_plan(table.moving, chunk_bytes=4096, max_blobs=9)
    catalogue = Catalogue(store, guest.config)
    made, body = catalogue.describe(
        who, build_manifest(who, "0" * 24, table, plan, None, (4096, 9)), ["d2d", "staged"], None
    )
    assert catalogue.announce(made, body, Deadline(5, "test"), replace=False)
    with pytest.raises(
        fl.DeviceError, match="published by d2d and staged, which cannot be used here: d2d: it moves no"
    ) as e:
        guest.load(target, identity)
    assert not e.value.memory_written
    assert all((tensor == 9).all() for tensor in target.values())


def test_only_what_failed_is_asked_for_again_and_named(
    open_loader: Open, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    publication = open_loader(chunk_bytes=1024, lease_s=3600).publish(weights(1), identity)
    keys = _core.chunk_keys(Identity.of(identity, op="test").chunk_prefix(publication.generation), 4)
    store.set_faults(missing=[keys[0]], truncated=[keys[2]], corrupt=[keys[3]])
    target = weights(9)
    with pytest.raises(fl.IntegrityError, match=r"^load: 3/4 chunks failed") as caught:
        guest.load(target, identity)
    assert sorted(caught.value.failed_keys) == sorted([keys[0], keys[2], keys[3]])
    assert caught.value.memory_written
    assert (target["b"] == 1).all()
    store.set_faults(missing=[keys[0]])
    with pytest.raises(fl.PartialTransferError, match=r"^load: 1/4 chunks failed") as missing:
        guest.load(target, identity)
    assert missing.value.failed_keys == (keys[0],)


def test_a_load_ends_by_its_deadline(
    loader: fl.FastLoader, guest: fl.FastLoader, store: MemoryStore, identity: dict[str, str]
) -> None:
    loader.publish(weights(1), identity)
    store.set_faults(fetch_delay_s=60)
    started = time.monotonic()
    with pytest.raises(fl.TransferTimeoutError):
        guest.load(weights(0), identity, deadline_s=0.3)
    assert time.monotonic() - started < 1.3


def test_who_holds_becomes_a_source_and_who_does_not_does_not(
    loader: fl.FastLoader, other_loader: fl.FastLoader, guest: fl.FastLoader, identity: dict[str, str]
) -> None:
    publication = loader.publish(weights(1), identity)
    guest.load(weights(0), identity)
    assert publication.sources() == 1
    other_loader.load(weights(0), identity)
    other_loader.load(weights(0), identity)
    assert publication.sources() == 2
    held = other_loader.publication(identity)
    assert held is not None
    assert (held.joined, held.generation) == (True, publication.generation)
