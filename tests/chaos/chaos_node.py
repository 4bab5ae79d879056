"""The processes of a campaign: one that forks, and the publishers and readers that it forks.

Torch is imported once; what is forked from there is ready in a tenth of a second, so that a fault may kill what it
likes. No thread of openYuanrong exists before the fork: the package is imported after it.

They speak lines of JSON. A call that fails with a typed error answers with its code; any other exception with
``unexpected``.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import logging
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections import Counter, deque
from pathlib import Path

import numpy as np
import torch
from models import Model
from schedule import DATA_GRACE_S

_PR_SET_PDEATHSIG = 1
_KEPT = 3  # destinations of past loads that are looked at again and again
_LIBC = ctypes.CDLL(None, use_errno=True)
_DEVICES = 8  # simulated ones; every node takes the next


def private_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10


def pool_mappings() -> int:
    """Mappings of a worker's pool, which is a memfd."""
    return sum("memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines())


def thread_names() -> dict[str, int]:
    names = Counter()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            names[Path(f"/proc/self/task/{thread}/comm").read_text().strip()] += 1
    return dict(sorted(names.items()))


class Ledger:
    """Writes down what a process is about to store, before it does: a killed one cannot tell any more."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, **facts) -> None:
        os.write(self._file, (json.dumps(facts) + "\n").encode())

    def listen(self) -> None:
        from yr_fastload_native.publisher import Publisher
        from yr_fastload_native.transports.d2d.tree import Tree

        store_chunks, begin = Publisher._store_chunks, Tree.__init__

        def storing(publisher, job):
            self.write(identity=job.who.digest, generation=job.generation, chunks=job.plan.chunks)
            return store_chunks(publisher, job)

        def beginning(tree, worker, who, generation):
            begin(tree, worker, who, generation)
            self.write(identity=who.digest, token=tree.token)

        Publisher._store_chunks, Tree.__init__ = storing, beginning


class Kept:
    """A destination, and what it held when the load had ended: nothing may write to it from then on."""

    def __init__(self, number: int, model: Model) -> None:
        self.number = number
        self._model = model
        self._held = [storage.copy() for storage in model.storages()]

    @property
    def nbytes(self) -> int:
        """Of both copies."""
        return 2 * sum(held.size for held in self._held)

    def written(self) -> int:
        return sum(
            int(np.count_nonzero(now != held)) for now, held in zip(self._model.storages(), self._held, strict=True)
        )


class Commands:
    """What a node can be asked to do."""

    def __init__(self) -> None:
        import yr_fastload_native as fl
        from yr_fastload_native import _core, catalogue

        catalogue._DATA_GRACE_S = DATA_GRACE_S
        self._fl = fl
        self._core = _core
        self._loaders = []
        self._sources = {}
        self._publications = {}
        self._kept = deque(maxlen=_KEPT)

    def open(self, settings):
        """Connect, ahead of a publish or load with the same settings."""
        return self._attempt(lambda: self._loader(settings) and {})

    def _loader(self, settings):
        config = self._fl.Config(**settings)
        for loader in self._loaders:
            if loader.config == config:
                return loader
        self._loaders.append(self._fl.FastLoader(config))
        return self._loaders[-1]

    def _attempt(self, act):
        started = time.monotonic()
        try:
            answer = act()
        except self._fl.FastLoadError as error:
            answer = {"error": error.code, "message": str(error)[:500], "memory_written": error.memory_written}
        except Exception:
            answer = {"unexpected": traceback.format_exc()}
        return {"seconds": time.monotonic() - started, **answer}

    def publish(self, identity, model, framework, content, settings, settle_s=0.0):
        source = Model(**model, framework=framework, content=content)

        def act():
            publication = loader.publish(source.tensors, identity)
            settled = publication.wait_settled(settle_s)
            self._publications[publication.generation] = publication
            return {"generation": publication.generation, "joined": publication.joined, "settled": settled}

        self._sources[str(identity)] = source
        connected = self._attempt(lambda: {"loader": self._loader(settings)})
        if "loader" not in connected:
            return {**connected, "connecting": True}
        loader = connected["loader"]
        return self._attempt(act)

    def states(self):
        return {"states": sorted(publication.state for publication in self._publications.values())}

    def overwrite(self, identity, content, seen):
        """Change what is published."""
        self._sources[str(identity)].overwrite(content, seen=seen)
        return {}

    def load(self, number, identity, model, framework, contents, settings, deadline_s):
        """Load, and say which of the contents came; several are right where several were published."""
        target = Model(**model, framework=framework, content=None)
        connected = self._attempt(lambda: {"loader": self._loader(settings)})
        if "loader" not in connected:
            return {**connected, "connecting": True}
        loader = connected["loader"]

        def act():
            report = loader.load(target.tensors, identity, deadline_s=deadline_s)
            return {"transport": report.transport, "retried": report.chunks_retried, "verified": report.verified}

        answer = self._attempt(act)
        kept = Kept(number, target)
        if "transport" in answer:
            wrong = [target.differing(content) for content in contents]
            answer |= {"wrong": min(wrong), "content": contents[wrong.index(min(wrong))], "bytes": target.nbytes}
        elif not answer.get("memory_written", True):
            answer["wrong"] = target.differing(None)
        self._kept.append(kept)
        return answer

    def watch(self):
        """Bytes written to destinations after their load had ended, by round."""
        return {"written": {kept.number: kept.written() for kept in self._kept}}

    def close(self):
        """Close everything. In the background the next call is not started before this one is done."""
        started = time.monotonic()
        loaders, self._loaders = self._loaders, []
        for loader in loaders:
            loader.close()
        seconds = time.monotonic() - started
        loader = None
        del loaders
        self._publications.clear()
        self._sources.clear()
        gc.collect()
        return {"seconds": seconds}

    def measure(self):
        """What this process holds with everything closed."""
        gc.collect()
        with contextlib.suppress(AttributeError):
            _LIBC.malloc_trim(0)
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "mappings": pool_mappings(),
            "private": private_bytes() - sum(kept.nbytes for kept in self._kept),
            "connections_left_behind": self._core.connections_left_behind(),
            "threads_left_behind": self._core.threads_left_behind(),
            "names": thread_names(),
            **self.watch(),
        }


def serve(room: str, name: str) -> None:
    """A forked process: answers calls until the campaign is gone."""
    log = os.open(f"{room}/{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    faulthandler.enable()
    logging.basicConfig(format="%(asctime)s %(threadName)s %(message)s", level=logging.INFO)
    logging.getLogger("yr_fastload_native").setLevel(logging.DEBUG)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ["YR_FASTLOAD_SIM_CONTROL"] = f"{room}/{name}.control"
    _LIBC.chaos_clock_use(f"{room}/{name}.clock".encode())
    ctypes.CDLL("libascendcl.so").aclrtSetDevice(int(name.removeprefix("node")) % _DEVICES)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{room}/nodes")
        calls = connection.makefile("r")
        connection.sendall(json.dumps({"name": name, "pid": os.getpid()}).encode() + b"\n")
        commands = Commands()
        Ledger(f"{room}/ledger").listen()
        for line in calls:
            call = json.loads(line)
            try:
                answer = getattr(commands, call.pop("name"))(**call)
            except Exception:
                answer = {"unexpected": traceback.format_exc()}
            connection.sendall(json.dumps(answer).encode() + b"\n")


def main(room: str) -> None:
    """Fork a node for each name on stdin. They end when this process does, and it when the campaign does."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    torch.set_num_threads(1)
    for line in sys.stdin:
        if os.fork() == 0:
            status = 1
            try:
                _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                sys.stdin.close()
                serve(room, line.strip())
                status = 0
            finally:
                os._exit(status)  # a thread of openYuanrong may sleep for a minute before it lets the process go


if __name__ == "__main__":
    main(sys.argv[1])
