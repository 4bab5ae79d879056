"""A process on one host of a test bed: ``python -m chaos.hosts.guest``. It publishes and loads what it can check."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import yr_fastload_native as fl
from chaos.hosts.namespace import move_to
from yr_fastload_native import _core
from yr_fastload_native.checkpoints.read_directory import compare
from yr_fastload_native.checkpoints.safetensors_files import scan_directory
from yr_fastload_native.measuring.child_process import serve
from yr_fastload_native.settings import parse_address

_MIB = 1 << 20
_CONNECT_S = 5.0
_TENSOR_BYTES = 8 * _MIB
_MARKS = np.arange(_TENSOR_BYTES // 8, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def tensors(size_mb: int) -> dict[str, NDArray[np.uint64]]:
    return {f"t{number}": np.zeros(_TENSOR_BYTES // 8, np.uint64) for number in range(size_mb * _MIB // _TENSOR_BYTES)}


def content(number: int, seed: int) -> NDArray[np.uint64]:
    made: NDArray[np.uint64] = _MARKS ^ np.uint64(seed << 32 | number)
    return made


class Commands:
    """What it can be asked to do. A call that fails with a typed error answers with its code."""

    def __init__(self, task: dict[str, Any]) -> None:
        move_to(task["namespace"])
        logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
        self._worker = task["worker"]
        self._loaders: dict[str, fl.FastLoader] = {}
        self._published: dict[str, tuple[fl.Publication, dict[str, NDArray[np.uint64]]]] = {}
        self._loaded: list[dict[str, NDArray[np.uint64]]] = []

    def _loader(self, settings: dict[str, Any]) -> fl.FastLoader:
        key = repr(sorted(settings.items()))
        if key not in self._loaders:
            self._loaders[key] = fl.FastLoader(fl.Config(worker=self._worker, transport="host", **settings))
        return self._loaders[key]

    def publish(self, model: str, size_mb: int, seed: int = 1, **settings: Any) -> dict[str, Any]:
        made = tensors(size_mb)
        for number, tensor in enumerate(made.values()):
            tensor[:] = content(number, seed)
        try:
            publication = self._loader(settings).publish(made, {"model": model})
        except fl.FastLoadError as error:
            return {"error": error.code, "message": str(error)}
        self._published[model] = publication, made
        return {"generation": publication.generation}

    def load(
        self, model: str, size_mb: int, seed: int = 1, deadline_s: float = 30.0, **settings: Any
    ) -> dict[str, Any]:
        target = tensors(size_mb)
        started, worked = time.monotonic(), time.process_time()
        try:
            report = self._loader(settings).load(target, {"model": model}, deadline_s=deadline_s)
        except fl.FastLoadError as error:
            seconds = time.monotonic() - started
            return {"error": error.code, "message": str(error), "seconds": seconds}
        cpu_s = time.process_time() - worked
        if settings.get("hold", True):
            self._loaded.append(target)  # so that it stays a source of them
        equal = all(np.array_equal(tensor, content(number, seed)) for number, tensor in enumerate(target.values()))
        return {"equal": equal, "seconds": report.seconds, "cpu_s": cpu_s, "retried": report.chunks_retried}

    def publish_files(self, directory: str) -> dict[str, Any]:
        publication = self._loader({}).publish_checkpoint(directory)
        return {"identity": dict(publication.identity)}

    def read_checkpoint(self, identity: dict[str, Any], directory: str) -> dict[str, Any]:
        """Tensor by tensor, each of which is let go before the next; `directory` is what they are compared with."""
        opened = self._loader({}).checkpoint(identity)
        wanted = scan_directory(directory)
        equal = opened.keys() == wanted.keys() and all(
            not compare({name: stored}, {name: opened[name]}) for name, stored in wanted.items()
        )
        return {"equal": equal, "from_files": opened.from_files}

    def withdraw(self, model: str) -> dict[str, Any]:
        """End what was published, with all copies that nobody holds."""
        publication, _ = self._published.pop(model)
        publication.close()
        return {"state": publication.state}

    def state(self, model: str) -> dict[str, Any]:
        publication, _ = self._published[model]
        return {"state": publication.state, "generation": publication.generation, "trouble": publication.trouble}

    def exist(self, keys: list[str]) -> dict[str, Any]:
        """Which of these keys are stored anywhere in the cluster."""
        return {"exist": self._store().exist(keys, deadline_s=2 * _CONNECT_S)}

    def store(self, keys: list[str], ttl_s: int) -> dict[str, Any]:
        """Store something under each of these keys for a while."""
        store = self._store()
        for key in keys:
            store.set(key, b"here", ttl_s=ttl_s, deadline_s=_CONNECT_S)
        return {}

    def expire(self, keys: list[str], ttl_s: int) -> dict[str, Any]:
        """Which of these keys are missing when they are renewed; the code of an error."""
        try:
            return {"missing": self._store().expire(keys, ttl_s=ttl_s, deadline_s=2 * _CONNECT_S)}
        except fl.FastLoadError as error:
            return {"error": error.code}

    def renew_in_vain(self, keys: list[str], times: int, deadline_s: float) -> dict[str, Any]:
        """Renew keys with too little time for it, again and again; how often it was enough, and whether the first one
        is found then in four times that.
        """
        store, renewed = self._store(), 0
        for _ in range(times):
            with contextlib.suppress(fl.TransferTimeoutError):
                store.expire(keys, ttl_s=60, deadline_s=deadline_s)
                renewed += 1
        try:
            return {"renewed": renewed, "found": store.get(keys[0], deadline_s=4 * deadline_s) is not None}
        except fl.FastLoadError as error:
            return {"renewed": renewed, "found": error.code}

    def _store(self) -> _core.ObjectStore:
        host, port = parse_address(self._worker, op="test")
        return _core.connect_host_store(
            _core.Connection(host, port, connect_timeout_s=_CONNECT_S, rpc_timeout_s=_CONNECT_S)
        )

    def close(self) -> dict[str, Any]:
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()
        return {}


if __name__ == "__main__":
    serve(Commands)
