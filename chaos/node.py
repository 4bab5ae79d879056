"""A process of the campaign that publishes and loads: ``python -m chaos.node``, forked from one that has torch.

A call that fails with a typed error answers with its code; any other exception with ``unexpected``.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import yr_fastload_native as fl
from chaos.checkpoints import differing, open_soon, write_files
from chaos.faults.devices import CAPTURE_S
from chaos.hosts.namespace import move_to
from chaos.ledger import write_down
from chaos.models import Model
from yr_fastload_native import _core
from yr_fastload_native.measuring.child_process import serve

__all__ = ["Commands"]

_Answer = dict[str, Any]

_KEPT = 3  # destinations of past loads that are looked at again and again
_CAPTURE_GLOBAL = 0  # torch_npu's
_LIBC = ctypes.CDLL(None, use_errno=True)
_TOLD = 500  # characters of a message


class Commands:
    """What a node can be asked to do; each method is a call, and returns its answer.

    Args:
        task: ``ledger``: the file of what is stored; ``clock``: that of this process's clock; ``device``: the number of
            its simulated device; ``namespace``: the network namespace that it is in, if it is not this one's.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        if task["namespace"]:
            move_to(task["namespace"])
        logging.basicConfig(format="%(asctime)s %(threadName)s %(message)s", level=logging.INFO)
        logging.getLogger("yr_fastload_native").setLevel(logging.DEBUG)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        _LIBC.chaos_clock_use(task["clock"].encode())
        ctypes.CDLL("libascendcl.so").aclrtSetDevice(task["device"])
        signal.signal(signal.SIGUSR2, lambda *_: threading.Thread(target=_capture, args=(task["device"],)).start())
        write_down(Path(task["ledger"]))
        self._loaders: list[fl.FastLoader] = []
        self._sources: dict[str, Model] = {}
        self._publications: dict[str, fl.Publication] = {}
        self._kept: deque[_Kept] = deque(maxlen=_KEPT)

    def open(self, settings: dict[str, Any]) -> _Answer:
        """Connect, ahead of a publish or load with the same settings."""
        answer = _attempt(lambda: {"loader": self._loader(settings)})
        answer.pop("loader", None)
        return answer

    def _loader(self, settings: dict[str, Any]) -> fl.FastLoader:
        config = fl.Config(**settings)
        for loader in self._loaders:
            if loader.config == config:
                return loader
        self._loaders.append(fl.FastLoader(config))
        return self._loaders[-1]

    def publish(
        self,
        identity: dict[str, Any],
        model: dict[str, Any],
        framework: str,
        content: int,
        settings: dict[str, Any],
        settle_s: float = 0.0,
    ) -> _Answer:
        source = self._sources[str(identity)] = Model(**model, framework=framework, content=content)

        def act(loader: fl.FastLoader) -> _Answer:
            publication = loader.publish(source.tensors, identity)
            settled = publication.wait_settled(settle_s)
            self._publications[publication.generation] = publication
            return {"generation": publication.generation, "joined": publication.joined, "settled": settled}

        return self._connected(settings, act)

    def overwrite(self, identity: dict[str, Any], content: int, seen: bool) -> _Answer:
        """Change what is published."""
        self._sources[str(identity)].overwrite(content, seen=seen)
        return {}

    def load(
        self,
        number: int,
        identity: dict[str, Any],
        model: dict[str, Any],
        framework: str,
        contents: list[int],
        settings: dict[str, Any],
        deadline_s: float,
    ) -> _Answer:
        """Load, and say which of the contents came; several are right where several were published."""
        target = Model(**model, framework=framework, content=None)

        def act(loader: fl.FastLoader) -> _Answer:
            report = loader.load(target.tensors, identity, deadline_s=deadline_s)
            return {"transport": report.transport, "retried": report.chunks_retried, "verified": report.verified}

        answer = self._connected(settings, act)
        if "connecting" in answer:
            return answer
        kept = _Kept(number, target)
        if "transport" in answer:
            wrong = [target.differing(content) for content in contents]
            answer |= {"wrong": min(wrong), "content": contents[wrong.index(min(wrong))], "bytes": target.nbytes}
        elif not answer.get("memory_written", True):
            answer["wrong"] = target.differing(None)
        self._kept.append(kept)
        return answer

    def write_files(self, directory: str, model: dict[str, int], content: int, settings: dict[str, Any]) -> _Answer:
        """Write a checkpoint, or another in its place; as what it is published."""
        write_files(Path(directory), model, content)
        return self._connected(settings, lambda loader: {"identity": loader.checkpoint_identity(directory)})

    def publish_files(self, directory: str, settings: dict[str, Any]) -> _Answer:
        def act(loader: fl.FastLoader) -> _Answer:
            publication = loader.publish_checkpoint(directory)
            self._publications[publication.generation] = publication
            return {"generation": publication.generation, "joined": publication.joined, "settled": True}

        return self._connected(settings, act)

    def read_files(
        self,
        source: str | dict[str, Any],
        model: dict[str, int],
        framework: str,
        contents: list[int],
        settings: dict[str, Any],
        verify: str,
        deadline_s: float,
    ) -> _Answer:
        """Read a checkpoint, by its directory or its identity, and compare all of it; several contents may be right."""

        def act(loader: fl.FastLoader) -> _Answer:
            with open_soon(loader, source, framework, verify, deadline_s) as opened:
                read = dict(opened)
                wrong = min(differing(read, model, content) for content in contents)
                found = {"transport": "host", "retried": 0, "verified": True, "from_files": len(opened.from_files)}
                return {**found, "wrong": wrong, "bytes": opened.bytes}

        return self._connected({**settings, "deadline_s": deadline_s / 2}, act)

    def _connected(self, settings: dict[str, Any], act: Callable[[fl.FastLoader], _Answer]) -> _Answer:
        """What comes of an act by a loader; with ``connecting`` if there was none."""
        connected = _attempt(lambda: {"loader": self._loader(settings)})
        if "loader" not in connected:
            return {**connected, "connecting": True}
        return _attempt(lambda: act(connected["loader"]))

    def holds(self, identity: dict[str, Any]) -> _Answer:
        """Whether it keeps this published, or means to as soon as it can."""
        found = list(filter(None, (loader.publication(identity) for loader in self._loaders)))
        return {"states": [each.state for each in found], "trouble": [each.trouble for each in found if each.trouble]}

    def written(self) -> _Answer:
        """Bytes written to destinations after their load had ended, by round."""
        return {"written": {kept.number: kept.written() for kept in self._kept}}

    def close(self) -> _Answer:
        """Close everything."""
        started = time.monotonic()
        while self._loaders:
            self._loaders.pop(0).close()
        seconds = time.monotonic() - started
        self._publications.clear()
        _settle()
        self._sources.clear()
        gc.collect()
        return {"seconds": seconds}

    def measure(self) -> _Answer:
        """What this process holds."""
        gc.collect()
        with contextlib.suppress(AttributeError):
            _LIBC.malloc_trim(0)
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "mappings": _pool_mappings(),
            "private": _private_bytes() - sum(kept.nbytes for kept in self._kept),
            "connections_left_behind": _core.connections_left_behind(),
            "threads_left_behind": _core.threads_left_behind(),
            "names": _thread_names(),
            **self.written(),
        }


class _Kept:
    """A destination, and what it held when the load had ended: nothing may write to it from then on."""

    def __init__(self, number: int, model: Model) -> None:
        self.number = number
        self._model = model
        self._held = [storage.copy() for storage in model.storages()]

    @property
    def nbytes(self) -> int:
        """Of both copies."""
        return 2 * sum(int(held.nbytes) for held in self._held)

    def written(self) -> int:
        return sum(
            int(np.count_nonzero(now != held)) for now, held in zip(self._model.storages(), self._held, strict=True)
        )


def _settle() -> None:
    """Wait for what a framework that lags still writes, if there is one here."""
    module = sys.modules.get("chaos.device_storage")
    if module is not None:
        module.settle()


def _capture(device: int) -> None:
    """Capture a graph for a while, as a framework does after loading."""
    acl, stream, graph = ctypes.CDLL("libascendcl.so"), ctypes.c_void_p(), ctypes.c_void_p()
    acl.aclrtSetDevice(device)
    acl.aclrtCreateStream(ctypes.byref(stream))
    if acl.aclmdlRICaptureBegin(stream, _CAPTURE_GLOBAL) == 0:
        time.sleep(CAPTURE_S)
        acl.aclmdlRICaptureEnd(stream, ctypes.byref(graph))
        acl.aclmdlRIDestroy(graph)
    acl.aclrtDestroyStream(stream)


def _attempt(act: Callable[[], _Answer]) -> _Answer:
    started = time.monotonic()
    try:
        answer = act()
    except fl.FastLoadError as error:
        answer = {"error": error.code, "message": str(error)[:_TOLD], "memory_written": error.memory_written}
    except Exception:
        answer = {"unexpected": traceback.format_exc()}
    return {"seconds": time.monotonic() - started, **answer}


def _private_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def _pool_mappings() -> int:
    """Mappings of a worker's pool, which is a memfd."""
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def _thread_names() -> dict[str, int]:
    names: Counter[str] = Counter()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            names[Path(f"/proc/self/task/{thread}/comm").read_text().strip()] += 1
    return dict(sorted(names.items()))


if __name__ == "__main__":
    serve(Commands)
