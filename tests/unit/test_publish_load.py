"""What one loader publishes, another loads byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.testing import MemoryStore

TORCH_DTYPES = sorted(
    {
        value
        for value in vars(torch).values()
        if isinstance(value, torch.dtype) and not any(word in str(value) for word in ("qint", "quint", "bits"))
    },
    key=str,
)


def random_torch(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bytes seen as this dtype; for bool zeros and ones."""
    if dtype is torch.bool:
        return torch.rand(shape) < 0.5
    tensor = torch.empty(shape, dtype=dtype)
    tensor.view(torch.uint8).random_(0, 256) if tensor.dim() else tensor.view(1).view(torch.uint8).random_(0, 256)
    return tensor


def raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


@pytest.mark.parametrize("staging", ["auto", "always"])
def test_every_torch_dtype_arrives(
    loader: fl.FastLoader, open_loader: Callable[..., fl.FastLoader], identity: dict[str, str], staging: str
) -> None:
    whole = {}
    for dtype in TORCH_DTYPES:
        try:
            whole[str(dtype)] = random_torch(dtype, 37, 11)
        except (RuntimeError, TypeError, UserWarning):
            continue  # a dtype that torch names but cannot make on the CPU, or calls experimental
    assert {"torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2", "torch.bool", "torch.int8"} <= whole.keys()
    target = {
        name: torch.zeros(tensor.shape, dtype=torch.uint8).to(tensor.dtype)
        if tensor.dtype is torch.bool
        else torch.empty_like(tensor)
        for name, tensor in whole.items()
    }
    loader.publish(whole, identity)
    report = open_loader(staging=staging).load(target, identity)
    assert report.verified
    assert report.tensors == len(whole)
    assert report.bytes == sum(t.nbytes for t in whole.values())
    for name, tensor in whole.items():
        assert raw(target[name]) == raw(tensor), name


def test_frameworks_meet(loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    """Published from torch, loaded into numpy, ml_dtypes, a bytearray and a DLPack object of the same layout."""

    class OnlyDLPack:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self, **_: Any) -> Any:
            return self.tensor.__dlpack__()

    source = {
        "bf16": random_torch(torch.bfloat16, 5, 7),
        "f8": random_torch(torch.float8_e4m3fn, 9),
        "f32": torch.randn(3, 4).t(),
        "u8": random_torch(torch.uint8, 100),
        "i64": torch.arange(12).reshape(3, 4),
    }
    inner = torch.zeros(3, 4, dtype=torch.int64)
    target = {
        "bf16": np.zeros((5, 7), ml_dtypes.bfloat16),
        "f8": np.zeros(9, ml_dtypes.float8_e4m3fn),
        "f32": np.zeros((3, 4), np.float32).T,
        "u8": bytearray(100),
        "i64": OnlyDLPack(inner),
    }
    loader.publish(source, identity)
    other_loader.load(target, identity)
    assert target["bf16"].tobytes() == raw(source["bf16"])
    assert target["f8"].tobytes() == raw(source["f8"])
    assert np.array_equal(target["f32"], source["f32"].numpy())
    assert bytes(target["u8"]) == raw(source["u8"])
    assert torch.equal(inner, source["i64"])


@given(
    sizes=st.lists(st.integers(0, 20_000), min_size=1, max_size=20),
    chunk_bytes=st.sampled_from([64, 4096, 8192, 100 * 64]),
    max_blobs=st.integers(1, 8),
    threads=st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_any_sizes_and_any_bounds(sizes: list[int], chunk_bytes: int, max_blobs: int, threads: int) -> None:
    rng = np.random.default_rng(sum(sizes))
    source = {f"t.{i}": rng.integers(0, 256, size, np.uint8) for i, size in enumerate(sizes)}
    target = {name: np.zeros_like(value) for name, value in source.items()}
    store, bounds = MemoryStore(), fl.Config(chunk_bytes=chunk_bytes, max_blobs=max_blobs, copy_threads=threads)
    with fl.FastLoader(bounds, store=store) as publisher, fl.FastLoader(fl.Config(), store=store) as reader:
        publisher.publish(source, {"model": "any"})
        report = reader.load(target, {"model": "any"})
    assert report.bytes == sum(sizes)
    for name, value in source.items():
        assert np.array_equal(target[name], value), name


def test_empty_models_are_models(loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish({}, identity)
    assert other_loader.load({}, identity).bytes == 0


def test_progress_is_told(loader: fl.FastLoader, other_loader: fl.FastLoader, identity: dict[str, str]) -> None:
    size = 64 << 20
    told: list[tuple[int, int]] = []
    loader.publish({"w": np.zeros(size, np.uint8)}, identity, progress=lambda done, total: told.append((done, total)))
    assert all(done <= total == size for done, total in told)
    assert told == sorted(told)


def test_staging_stays_under_its_cap(open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]) -> None:
    chunk = 1 << 20
    bounds = {"chunk_bytes": chunk, "staging": "always", "staging_bytes": 2 * chunk, "copy_threads": 4}
    source = {f"w{i}": np.full(chunk // 2 * 3, i, np.uint8) for i in range(10)}
    target = {name: np.zeros_like(value) for name, value in source.items()}
    with open_loader(**bounds) as both:
        both.publish(source, identity)
        both.load(target, identity)
        staging = both.stats()["devices"]["cpu"]["staging"]
    assert 0 < staging["peak_bytes"] <= 2 * chunk
    assert staging["leased_bytes"] == 0
    assert all(np.array_equal(target[name], value) for name, value in source.items())


def test_layout_only_skips_the_digest(open_loader: Callable[..., fl.FastLoader], identity: dict[str, str]) -> None:
    source, target = {"w": np.arange(1000)}, {"w": np.zeros(1000, np.int64)}
    with open_loader(verify="layout") as both:
        both.publish(source, identity)
        report = both.load(target, identity)
    assert not report.verified
    assert np.array_equal(target["w"], source["w"])


def test_stats_name_every_bound(loader: fl.FastLoader) -> None:
    stats = loader.stats()
    assert stats["copy_threads"] >= 1
    assert stats["devices"] == {}  # none was used yet
    assert all(bound["cap"] > 0 for bound in stats["bounds"].values())
    assert [name for name, bound in stats["bounds"].items() if "used" in bound] == [
        "threads_left_behind",
        "connections_left_behind",
        "descriptors",
    ]
    assert stats["threads_left_behind"] == _core.threads_left_behind() == 0
