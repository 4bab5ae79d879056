"""Loaders over a store inside the process: what is above the store, in milliseconds and without a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native.loader import checkpoint as loader_checkpoint
from yr_fastload_native.testing import MemoryStore

from .published_files import make_files


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def open_loader(store: MemoryStore) -> Iterator[Callable[..., fl.FastLoader]]:
    """Opens one more loader of the store, as another process would have, with settings of its own."""
    with contextlib.ExitStack() as opened:
        yield lambda **settings: opened.enter_context(fl.FastLoader(fl.Config(**settings), store=store))


@pytest.fixture
def loader(open_loader: Callable[..., fl.FastLoader]) -> fl.FastLoader:
    return open_loader()


@pytest.fixture
def other_loader(open_loader: Callable[..., fl.FastLoader]) -> fl.FastLoader:
    return open_loader()


@pytest.fixture
def guest(open_loader: Callable[..., fl.FastLoader]) -> fl.FastLoader:
    """A reader that never becomes a source."""
    return open_loader(hold=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A checkpoint's."""
    return make_files(tmp_path / "some-model")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on this process is on another machine, whose pool has copies."""
    return lambda: monkeypatch.setattr(loader_checkpoint, "pool_of", lambda address: "another machine/")
