"""What stands for vLLM and for openYuanrong where an exchange is driven without either."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import FastLoadError, IntegrityError, NotPublishedError
from yr_fastload_native.reporting.load_report import LoadReport
from yr_fastload_native.vllm import compat, exchange, session
from yr_fastload_native.vllm.exchange import Exchange
from yr_fastload_native.vllm.settings import Settings

ROPES: dict[int, Rope] = {}  # as in vLLM: whoever asks for the same gets the same module
IDENTITY = {"model": "toy"}


class Rope(torch.nn.Module):
    """A table that is computed, and a coefficient of the checkpoint, in one module for all."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(float(length)), persistent=False)
        self.coefficient = torch.nn.Parameter(torch.ones(2), requires_grad=False)


def get_rope(length: int = 8) -> Rope:
    if length not in ROPES:
        ROPES[length] = Rope(length)
    return ROPES[length]


class Toy(torch.nn.Module):
    """A model with something of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(4, 4), requires_grad=False)
        self.register_buffer("scale", torch.ones(3))
        self.rope = get_rope()

    def read(self) -> None:
        """What is in its checkpoint."""
        with torch.no_grad():
            self.weight.copy_(torch.arange(16.0).view(4, 4))
            self.rope.coefficient.copy_(torch.tensor([3.0, 4.0]))

    def expect_right(self) -> None:
        assert torch.equal(self.weight, torch.arange(16.0).view(4, 4))
        assert torch.equal(self.scale, torch.ones(3))
        assert torch.equal(self.rope.table, torch.arange(8.0))
        assert torch.equal(self.rope.coefficient, torch.tensor([3.0, 4.0]))


class Loader:
    """As vLLM's base class.

    Args:
        make: Makes a model.
        read: Reads its weights.
        process: What follows.
    """

    def __init__(
        self,
        make: Callable[[], Any] = Toy,
        read: Callable[[Any], None] = Toy.read,
        process: Callable[[Any], None] = lambda model: None,
    ) -> None:
        self._make, self._read, self._process = make, read, process

    def load_weights(self, model: Any, model_config: Any) -> None:
        self._read(model)

    def load_model(self, vllm_config: Any, model_config: Any) -> Any:
        model = self._make()
        self.load_weights(model, model_config)
        self._process(model)
        return model


class FileLoader(Loader):
    """One whose models have a single weight, which is read from a file.

    Args:
        path: A safetensors file.
        count: How many float32 the weight has.
    """

    def __init__(self, path: Path, count: int) -> None:
        def make() -> torch.nn.Module:
            model = torch.nn.Module()
            model.weight = torch.nn.Parameter(torch.zeros(count), requires_grad=False)
            return model

        super().__init__(make, lambda model: model.weight.data.copy_(torch.from_numpy(load_file(path)["weight"])))
        self._path = path
        self.load_config = SimpleNamespace(load_format="safetensors")

    def _prepare_weights(self, model_name_or_path: str, revision: str | None) -> list[str]:
        return [str(self._path)]


class Publication:
    by_reference = False
    transports = ("host",)
    digest = None
    seconds = 0.0

    def __init__(self, store: Store, tensors: dict[str, torch.Tensor], files: Mapping[str, str] | None = None) -> None:
        self._store = store
        self.tensors = tensors
        self.files = dict(files or {})
        self.bytes = sum(tensor.nbytes for tensor in tensors.values())
        self.closed = threading.Event()

    @property
    def state(self) -> str:
        return "left" if self.closed.is_set() else "live"

    def wait_settled(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        self.closed.set()
        self._store.by_identity = {key: each for key, each in self._store.by_identity.items() if each is not self}


class Store:
    """What all instances see."""

    def __init__(self) -> None:
        self.by_identity: dict[str, Publication] = {}
        self.claimed = False

    @property
    def published(self) -> Publication | None:
        """What was published last."""
        return next(reversed(self.by_identity.values()), None)


def _key(identity: Mapping[str, Any]) -> str:
    return Identity.of(identity, op="test").digest


class Fast:
    """A `FastLoader` of one instance, which may damage what it reads.

    Args:
        store: That it uses.
        damages: Whether it does.
        meanwhile: Called while it waits for others to publish.
    """

    def __init__(self, store: Store, *, damages: bool = False, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._damages = damages
        self._meanwhile = meanwhile
        self._mine: Publication | None = None
        self.config = SimpleNamespace(publish_deadline_s=10.0)

    def wait_for_publisher(self, identity: Mapping[str, Any], *, timeout_s: float) -> None:
        self._meanwhile()
        if not self.is_published(identity):
            self._store.claimed = True
            raise NotPublishedError("nobody", op="wait_for_publisher")

    def release(self, identity: Mapping[str, Any]) -> None:
        self._store.claimed = False

    def publication(self, identity: Mapping[str, Any]) -> Publication | None:
        return self._mine

    def is_published(self, identity: Mapping[str, Any]) -> bool:
        return _key(identity) in self._store.by_identity

    def files(self, identity: Mapping[str, Any], generation: str | None = None) -> dict[str, str] | None:
        found = self._store.by_identity.get(_key(identity))
        return None if found is None else found.files

    def digests(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: (hash(tensor.numpy().tobytes()),) for name, tensor in tensors.items()}

    def publish(
        self, tensors: Mapping[str, torch.Tensor], identity: Any, *, files: Mapping[str, str] | None = None, **_: Any
    ) -> Publication:
        self._store.claimed = False
        self._mine = Publication(self._store, {name: tensor.clone() for name, tensor in tensors.items()}, files)
        self._store.by_identity[_key(identity)] = self._mine
        return self._mine

    def identities(self, **_: Any) -> list[dict[str, Any]]:
        return []

    def load(self, tensors: Mapping[str, torch.Tensor], identity: Any, **_: Any) -> LoadReport:
        if not self.is_published(identity):
            raise NotPublishedError("nobody", op="load")
        source = self._store.by_identity[_key(identity)].tensors
        assert source.keys() == tensors.keys()
        for name, tensor in tensors.items():
            tensor.detach().copy_(source[name])
            if self._damages:
                tensor.detach().fill_(-1)
        if self._damages:
            error: FastLoadError = IntegrityError("damaged", op="load")
            error.memory_written = True
            raise error
        self._mine = self._mine or Publication(self._store, {})
        return LoadReport(
            bytes=1,
            tensors=len(tensors),
            chunks=1,
            seconds=1.0,
            transport="host",
            generation="g",
            verified=True,
            chunks_retried=0,
            stages={},
        )


def run(
    monkeypatch: pytest.MonkeyPatch,
    fast: Any,
    loader: Loader,
    *,
    identity: Mapping[str, Any] = IDENTITY,
    model: str = "toy",
    **settings: Any,
) -> tuple[Any, dict[str, Any]]:
    """One ``load_model`` with an exchange around it: the model, and what is reported of it.

    Args:
        monkeypatch: Of the test.
        fast: A `FastLoader`, or what stands for one.
        loader: vLLM's.
        identity: Of the model, but for its checkpoint.
        model: Where its files are.
        settings: Beside those that publish at once, by the name of the checkpoint.
    """
    monkeypatch.setattr(session, "loader_of", lambda config: fast)
    monkeypatch.setattr(
        exchange, "identity_of", lambda call, *, checkpoint, **_: {**identity, "checkpoint": checkpoint}
    )
    monkeypatch.setattr(compat, "version", lambda: "0.32.0")
    model_config = SimpleNamespace(model=model, revision=None)
    call = compat.Call(SimpleNamespace(compilation_config=None, model_config=model_config), model_config, "")
    chosen = Settings.of({"publish": "inline", "fingerprint": "toy", **settings})
    made = Exchange(loader, loader, call, chosen, "auto").run(lambda: loader.load_model(None, model_config))
    return made, next(each for each in reversed(session.outcomes()) if each["event"] == "loaded")
