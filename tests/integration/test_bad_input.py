"""Wrong layouts, damaged or hostile objects, a full or absent or frozen worker: typed errors, nothing written."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.identity import Identity
from yr_fastload_native.manifest import FORMAT, Head

from ..waiting import wait_until

pytestmark = pytest.mark.worker


def weights(value: int = 1) -> dict[str, np.ndarray]:
    return {"a.weight": np.full((64, 32), value, np.float32), "a.bias": np.full(64, value, np.float32)}


def untouched(target: dict[str, Any]) -> bool:
    return all((np.asarray(tensor) == 9).all() for tensor in target.values())


def transposed() -> np.ndarray:
    return np.full((32, 64), 9, np.float32).T


LAYOUTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "a tensor more": (lambda t: t.update(extra=np.full(3, 9, np.float32)), "extra", "not published"),
    "a tensor less": (lambda t: t.pop("a.bias"), "a.bias", "not wanted"),
    "another name": (lambda t: t.update({"a.b": t.pop("a.bias")}), "a.b", "not published"),
    "another dtype": (lambda t: t.update({"a.bias": np.full(64, 9, np.int32)}), "a.bias", "dtype"),
    "another shape": (lambda t: t.update({"a.bias": np.full((8, 8), 9, np.float32)}), "a.bias", "shape"),
    "other strides": (lambda t: t.update({"a.weight": transposed()}), "a.weight", "strides"),
    "tied": (lambda t: t.update({"a.bias": t["a.weight"][0:2].reshape(64)}), "a.bias", "alias"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_that_differ_write_nothing(
    loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str], case: str
) -> None:
    change, name, word = LAYOUTS[case]
    loader.publish(weights(), identity)
    target: dict[str, Any] = weights(9)
    change(target)
    with pytest.raises(fl.LayoutMismatchError, match=word) as caught:
        other_loader.load(target, identity)
    assert name in caught.value.failed_keys
    assert untouched(target)


def test_tensors_that_cannot_be_loaded_into_are_named(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish(weights(), identity)
    target = weights(9)
    target["a.bias"].flags.writeable = False
    with pytest.raises(fl.InvalidArgumentError, match=r"a\.bias.*read-only"):
        loader.load(target, identity)
    with pytest.raises(fl.DeviceError, match=r"a\.bias.*meta"):
        loader.load({**weights(9), "a.bias": torch.empty(64, device="meta")}, identity)
    with pytest.raises(fl.InvalidArgumentError, match=r"x.*not dense"):
        loader.publish({"x": np.zeros((4, 4))[:, :2]}, identity)


class Stored:
    """The raw objects of a publication, to be damaged."""

    def __init__(self, loader: fl.FastLoader, identity: dict[str, str], generation: str) -> None:
        self.store = loader._worker("test").catalogue.store
        self.who = Identity.of(identity, op="test")
        self.manifest_key = self.who.manifest_key(generation)
        self.generation = generation

    def get(self, key: str) -> bytes:
        value = self.store.get(key, deadline_s=5)
        assert value is not None
        return value

    def set(self, key: str, value: bytes) -> None:
        self.store.set(key, value, ttl_s=30, deadline_s=5)

    def set_manifest(self, value: bytes, **head: Any) -> None:
        """A manifest, and a head that vouches for it: what a hostile publisher could write."""
        import hashlib

        self.set(self.manifest_key, value)
        fields = {
            "format": FORMAT,
            "generation": self.generation,
            "manifest_bytes": len(value),
            "manifest_sha256": hashlib.sha256(value).hexdigest(),
            "transports": ["host"],
        }
        self.set(self.who.head_key, msgspec.json.encode(Head(**{**fields, **head})))


@pytest.fixture
def stored(worker: str, identity: dict[str, str]) -> Iterator[Stored]:
    # A source that looks at the head while it is damaged would take it for a newer generation and withdraw its own.
    with fl.FastLoader(fl.Config(worker=worker, lease_s=3600)) as publisher:
        publication = publisher.publish(weights(), identity)
        yield Stored(publisher, identity, publication.generation)


def refused(reader: fl.FastLoader, identity: dict[str, str], match: str) -> fl.FastLoadError:
    target = weights(9)
    started = time.monotonic()
    with pytest.raises((fl.IntegrityError, fl.ResourceExhaustedError), match=match) as caught:
        reader.load(target, identity)
    assert time.monotonic() - started < 10
    assert untouched(target)
    return caught.value


def test_a_truncated_manifest(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.set(stored.manifest_key, stored.get(stored.manifest_key)[:-40])
    refused(other_loader, identity, "not the one that the head names")


def test_hostile_manifests(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    good = msgspec.json.decode(stored.get(stored.manifest_key))
    chunk = good["chunks"][0]
    cases: list[tuple[str, dict[str, Any]]] = [
        ("format 2", {"format": 2}),
        ("not valid", {"surprise": 1}),
        ("not valid", {"chunk_bytes": -64}),
        ("not valid", {"chunk_bytes": 1 << 70}),
        ("contradicts", {"chunk_bytes": 65}),
        ("contradicts", {"chunk_bytes": 64}),
        ("contradicts", {"chunks": [chunk] * 1_000_000}),
        ("contradicts", {"chunks": [["yrfl1-chunk-other", *chunk[1:]]]}),
        ("contradicts", {"chunks": [[chunk[0], chunk[1] + 1, *chunk[2:]]]}),
        ("contradicts", {"tensors": [[*good["tensors"][0][:4], (1 << 63) - 1, *good["tensors"][0][5:]]] * 1}),
        ("contradicts", {"tensors": good["tensors"] * 2}),
        ("another identity", {"identity": {"model": "other"}}),
        ("digest", {"digest": "md5"}),
    ]
    for match, change in cases:
        stored.set_manifest(msgspec.json.encode({**good, **change}))
        refused(other_loader, identity, match)
    stored.set_manifest(b'{"identity":' + b'{"a":' * 100_000)
    refused(other_loader, identity, "not valid")
    stored.set_manifest(msgspec.json.encode(good))
    other_loader.load(weights(9), identity)  # and only the damage was refused


def test_offsets_past_the_end_write_nothing(
    stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]
) -> None:
    good = msgspec.json.decode(stored.get(stored.manifest_key))
    row = good["tensors"][0]
    row[6] = 1 << 62  # offset: described, never trusted
    stored.set_manifest(msgspec.json.encode(good))
    refused(other_loader, identity, "contradicts")


def test_a_damaged_head(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.set(stored.who.head_key, b"\xff\x00 no json")
    refused(other_loader, identity, "head is not valid")


def test_a_damaged_chunk_is_named(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    key = stored.who.chunk_prefix(stored.generation) + "0"
    size = 64 * 32 * 4 + 64 * 4
    stored.set(key, b"\x07" * size)
    with pytest.raises(fl.IntegrityError, match="does not match its digest") as caught:
        other_loader.load(weights(9), identity)
    assert caught.value.failed_keys == (key,)
    assert "a.weight" in str(caught.value)
    stored.set(key, b"\x07" * (size - 1))
    error = refused(other_loader, identity, f"has {size - 1} bytes, not {size}")
    assert error.failed_keys == (key,)


def test_only_what_failed_is_fetched_again(worker: str, identity: dict[str, str]) -> None:
    """One chunk of three is damaged, and repaired once the others have arrived: one is asked for again."""
    source = {name: np.full(1024, number, np.uint8) for number, name in enumerate("abc")}
    target = {name: np.full(1024, 9, np.uint8) for name in source}
    told: list[int] = []
    with fl.FastLoader(fl.Config(worker=worker, chunk_bytes=1024, lease_s=3600)) as both:
        publication = both.publish(source, identity)
        stored = Stored(both, identity, publication.generation)
        key = stored.who.chunk_prefix(stored.generation) + "1"
        good = stored.get(key)
        stored.set(key, b"\x07" * len(good))

        def repair(done: int, total: int) -> None:
            told.append(done)
            if done == total:
                stored.set(key, good)

        report = both.load(target, identity, progress=repair)
    assert report.chunks == 3
    assert report.chunks_retried == 1
    assert both.stats()["chunks_retried"] == 1
    assert told[-1] == 1024, "the second pass moved one chunk"
    assert all(np.array_equal(target[name], tensor) for name, tensor in source.items())


def test_staged_loads_never_show_damaged_bytes(stored: Stored, worker: str, identity: dict[str, str]) -> None:
    stored.set(stored.who.chunk_prefix(stored.generation) + "0", b"\x07" * (64 * 32 * 4 + 64 * 4))
    with fl.FastLoader(fl.Config(worker=worker, staging="always")) as careful:
        refused(careful, identity, "does not match its digest")


def test_a_missing_chunk_is_named(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    key = stored.who.chunk_prefix(stored.generation) + "0"
    stored.store.erase([key], deadline_s=5)
    target = weights(9)
    with pytest.raises(fl.PartialTransferError, match="not in the store") as caught:
        other_loader.load(target, identity)
    assert caught.value.failed_keys == (key,)
    assert untouched(target)


def test_a_missing_manifest(stored: Stored, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    stored.store.erase([stored.manifest_key], deadline_s=5)
    with pytest.raises(fl.PartialTransferError):
        other_loader.load(weights(9), identity)


def test_keys_that_openyuanrong_refuses(loader: fl.FastLoader) -> None:
    store = loader._worker("test").catalogue.store
    for key in ("with.dot", "with/slash", "k" * 256, "", "umläut"):
        with pytest.raises(fl.InvalidArgumentError):
            store.set(key, b"x", ttl_s=5, deadline_s=5)


def test_names_that_keys_could_not_hold(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    identity = {"model": "org/Model-1.5.B/ümläut ✓ " + "x" * 300, "path": "/a/b.c"}
    source = {"layers.0/attn.q_proj.wéight ✓" * 5: np.arange(5)}
    target = {name: np.zeros(5, np.int64) for name in source}
    loader.publish(source, identity)
    other_loader.load(target, identity)
    assert (next(iter(target.values())) == np.arange(5)).all()


def test_no_worker() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(fl.UnavailableError, match="worker start") as caught:
            fl.FastLoader(fl.Config(worker=address, connect_timeout_s=1))
    assert address in str(caught.value)
    assert time.monotonic() - started < 6


def test_a_worker_that_stops_between_publish_and_load(own_worker: fl.LocalWorker, identity: dict[str, str]) -> None:
    bounds = fl.Config(worker=own_worker.address, rpc_timeout_s=1)
    with fl.FastLoader(bounds) as publisher, fl.FastLoader(bounds) as reader:
        publication = publisher.publish(weights(), identity)
        own_worker.stop(force=True)
        target = weights(9)
        started = time.monotonic()
        with pytest.raises((fl.UnavailableError, fl.TransferTimeoutError)):
            reader.load(target, identity, deadline_s=3)
        assert time.monotonic() - started < 4
        assert untouched(target)
        publication.close()  # bounded, and does not raise


@contextmanager
def frozen(pid: int) -> Any:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_worker_keeps_nobody(own_worker: fl.LocalWorker, short_tmp: Any, identity: dict[str, str]) -> None:
    status = fl.LocalWorker.status(short_tmp)
    assert status is not None
    reader = fl.FastLoader(fl.Config(worker=own_worker.address, rpc_timeout_s=30))
    publisher = fl.FastLoader(fl.Config(worker=own_worker.address, rpc_timeout_s=30, publish_deadline_s=1))
    publisher.publish(weights(), identity)
    reader.load(weights(9), identity)
    with frozen(status.pid):
        target = weights(9)
        started = time.monotonic()
        with pytest.raises(fl.TransferTimeoutError):
            reader.load(target, identity, deadline_s=1)
        assert time.monotonic() - started < 2
        assert untouched(target)
        started = time.monotonic()
        with pytest.raises(fl.TransferTimeoutError):
            publisher.publish(weights(2), identity)
        assert time.monotonic() - started < 2, "also what was begun is taken back within that second"
        started = time.monotonic()
        reader.close()
        publisher.close()
        assert time.monotonic() - started < 15
        started = time.monotonic()
        with pytest.raises(fl.UnavailableError):
            fl.FastLoader(fl.Config(worker=own_worker.address, connect_timeout_s=1))
        assert time.monotonic() - started < 6
    gc.collect()  # tracebacks of the errors above still hold the connections
    assert wait_until(lambda: _core.threads_left_behind() == 0, 40), (
        "calls that were left behind end once the worker goes on"
    )


def test_too_much_left_behind_is_refused(own_worker: fl.LocalWorker, short_tmp: Any) -> None:
    """In a process of its own, which has dozens of connections."""
    code = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import yr_fastload_native as fl
from yr_fastload_native import _core
config = fl.Config(worker=sys.argv[1], transport="host", rpc_timeout_s=1)
with ThreadPoolExecutor(_core.MOST_THREADS_LEFT_BEHIND) as pool:
    loaders = list(pool.map(lambda _: fl.FastLoader(config), range(_core.MOST_THREADS_LEFT_BEHIND)))
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    list(pool.map(fl.FastLoader.close, loaders))
print(_core.threads_left_behind(), flush=True)
try:
    fl.FastLoader(config)
except fl.ResourceExhaustedError as error:
    print(error, flush=True)
os._exit(0)
"""
    status = fl.LocalWorker.status(short_tmp)
    assert status is not None
    command = [sys.executable, "-c", code, own_worker.address, str(status.pid)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    finally:
        os.kill(status.pid, signal.SIGCONT)
    left, error = done.stdout.splitlines()
    assert int(left) == _core.MOST_THREADS_LEFT_BEHIND
    assert error.startswith(f"connect: {left} threads and 0 connections of this process still wait")


def test_a_pool_too_small_publishes_nothing(own_worker: fl.LocalWorker, identity: dict[str, str]) -> None:
    bounds = fl.Config(worker=own_worker.address, rpc_timeout_s=1, chunk_bytes=8 << 20)
    with fl.FastLoader(bounds) as loader:
        with pytest.raises(fl.ResourceExhaustedError, match="no room for 805306368 bytes"):
            loader.publish({"w": np.zeros(768 << 20, np.uint8)}, identity)
        with pytest.raises(fl.NotPublishedError):
            loader.load({"w": np.zeros(768 << 20, np.uint8)}, identity)
        # What it had reserved is free again.
        loader.publish({"w": np.ones(300 << 20, np.uint8)}, identity)


def test_a_fork_is_told(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish(weights(), identity)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            loader.load(weights(9), identity)
            text = "loaded"
        except fl.FastLoadError as error:
            text = f"{error.code} {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        assert pipe.read().startswith("INVALID_ARGUMENT")
    assert status == 0


def test_a_closed_loader_says_so(config: fl.Config, identity: dict[str, str]) -> None:
    loader = fl.FastLoader(config)
    loader.close()
    loader.close()
    with pytest.raises(fl.InvalidArgumentError, match="closed"):
        loader.load(weights(), identity)


def test_rounds_leak_nothing(config: fl.Config, identity: dict[str, str]) -> None:
    process = psutil.Process()

    def one_round() -> None:
        with fl.FastLoader(config) as loader:
            loader.publish(weights(), identity)
            loader.load(weights(9), identity)

    for _ in range(3):
        one_round()
    before = process.num_threads(), process.num_fds()
    for _ in range(8):
        one_round()
    after = process.num_threads(), process.num_fds()
    assert after[0] <= before[0] + 2, (before, after)
    assert after[1] <= before[1] + 4, (before, after)


def test_ctrl_c_ends_a_transfer(worker: str, identity: dict[str, str]) -> None:
    import subprocess

    script = f"""
import os, signal, threading, time, numpy as np, yr_fastload_native as fl
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
with fl.FastLoader(fl.Config(worker={worker!r}, copy_threads=1)) as loader:
    tensors = {{"w": np.zeros(1 << 30, np.uint8)}}
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        loader.publish(tensors, {identity!r})
        print("published")
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "interrupted\n"
