"""Tensors, and a publication of them in a store that fails on demand, for tests of transfers."""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.testing import MemoryStore

GRANULE = 64 << 10
MIB = 1 << 20
GUARD = 41  # odd, so that tensors begin anywhere
UNTOUCHED = 0xA5


class Memory:
    """Tensors of given sizes at odd addresses of one block, with guard bytes around each."""

    def __init__(self, sizes: list[int], seed: int | None = None) -> None:
        self.sizes = sizes
        self.starts = []
        end = GUARD
        for size in sizes:
            self.starts.append(end)
            end += size + GUARD
        self.block = np.full(end, UNTOUCHED, np.uint8)
        if seed is not None:
            rng = np.random.default_rng(seed)
            for i in range(len(sizes)):
                self.tensor(i)[:] = rng.integers(0, 256, sizes[i], np.uint8)
        base = self.block.ctypes.data
        self.addresses = array("Q", [base + a if n else 0 for a, n in zip(self.starts, sizes, strict=True)])

    def tensor(self, index: int) -> np.ndarray:
        start = self.starts[index]
        return self.block[start : start + self.sizes[index]]

    def check_guards(self) -> None:
        guard = np.ones(len(self.block), np.bool_)
        for start, size in zip(self.starts, self.sizes, strict=True):
            guard[start : start + size] = False
        assert (self.block[guard] == UNTOUCHED).all()

    def same_bytes(self, other: Memory) -> bool:
        return all(np.array_equal(self.tensor(i), other.tensor(i)) for i in range(len(self.sizes)))


def blobs_of(plan: _core.Plan, chunk: int) -> list[tuple[int, int, int, int]]:
    return [(blob.tensor, blob.tensor_offset, blob.bytes, blob.chunk_offset) for blob in plan.chunk(chunk)]


class Setup:
    """A publication in a store, and what is needed to load it."""

    def __init__(
        self, sizes: list[int], *, chunk_bytes: int = 256, max_blobs: int = 4, pool_bytes: int = MIB, seed: int = 1
    ) -> None:
        self.store = MemoryStore()
        self.device = _core.cpu_device()
        self.pool = _core.PinnedPool(self.device, pool_bytes)
        self.plan = _core.make_plan(array("Q", sizes), chunk_bytes=chunk_bytes, max_blobs=max_blobs)
        self.source = Memory(sizes, seed)
        self.digests: Any = array("Q", [0]) * self.plan.chunks

    def publish(self, **changed: Any) -> dict[str, float]:
        settings: dict[str, Any] = {
            "key_prefix": "chunk-", "ttl_s": 600, "copy_threads": 2, "chunks_in_flight": 2, "verify": True,
            "deadline_s": 120,
        }  # fmt: skip
        addresses = changed.pop("addresses", self.source.addresses)
        self.digests, seconds = _core.publish_chunks(self.store, self.plan, addresses, **(settings | changed))
        return seconds

    def load(self, into: Memory, chunks: Any = None, **changed: Any) -> tuple[int, list[Any], list[Any]]:
        settings: dict[str, Any] = {
            "digests": self.digests, "copy_threads": 2, "chunks_in_flight": 2, "verify": True, "stage": False,
            "deadline_s": 120,
        }  # fmt: skip
        chunks = array("Q", range(self.plan.chunks)) if chunks is None else chunks
        addresses = changed.pop("addresses", into.addresses)
        settings |= changed
        reader = _core.StoreReader(self.store, "chunk-", first_batch=4, batch=max(1, settings["chunks_in_flight"] // 2))
        done, verified, spans, failures = _core.load_chunks(
            reader, self.device, self.pool, self.plan, addresses, chunks, **settings
        )
        assert verified == settings["verify"]
        return done, spans, failures

    def keys(self, *chunks: int) -> list[str]:
        return [f"chunk-{chunk}" for chunk in chunks]


def published(sizes: list[int], **settings: Any) -> tuple[Setup, Memory]:
    setup = Setup(sizes, **settings)
    setup.publish()
    return setup, Memory(sizes)


BOUNDS = st.fixed_dictionaries({"copy_threads": st.integers(1, 4), "chunks_in_flight": st.integers(1, 4)})
SIZES = st.lists(st.one_of(st.sampled_from([0, 1, 63, 64, 65, 256, 257]), st.integers(0, 1500)), max_size=20)


@contextlib.contextmanager
def unchanged_afterwards(into: Memory) -> Iterator[None]:
    """What the body left in memory stays for a while."""
    yield
    after = into.block.copy()
    time.sleep(0.25)
    assert np.array_equal(into.block, after)


def huge_plan(tensors: int) -> tuple[_core.Plan, array[int], np.ndarray]:
    """A plan of many tensors that all read the same 16 MiB."""
    plan = _core.make_plan(array("Q", [16 * MIB]) * tensors, chunk_bytes=16 * MIB, max_blobs=1)
    data = np.zeros(16 * MIB, np.uint8)
    return plan, array("Q", [data.ctypes.data]) * tensors, data
