"""What a process of `nodes` can be asked to do."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

import psutil
from node_frameworks import Frameworks
from node_models import Models
from node_tensors import blank, memory_of, overwrite, placed, same_bytes, set_device, weights

from yr_fastload_native.measuring.child_process import serve


class Commands(Frameworks, Models):
    def publish(self, model, seed=1, count=12, size=1 << 20, settings=None, inference=False, wait_s=30):
        import torch

        with torch.inference_mode(inference):
            self.source = placed(weights(seed, count, size))
        publication = self._loader(settings or {}).publish(self.source, {"model": model})
        self.publications[model] = publication
        return {"settled": publication.wait_settled(wait_s), "chunks": publication.chunks, "state": publication.state}

    def publish_cpu_tensors(self, model):
        try:
            self._loader({"transport": "d2d"}).publish(weights(1, 1, 100), {"model": model})
        except self.fl.FastLoadError as error:
            return {"error": error.code, "message": str(error)}
        return {"error": None}

    def publish_and_write(self, model):
        """Publish, and change a tensor before the digests are stored: in one call, for a busy machine."""
        chunks = self.publish(model, settings={"chunk_bytes": 16 << 10}, wait_s=0)["chunks"]
        self.write("other")
        return {"in_time": self.serving(model)["chunks"] < chunks}

    def publish_in_vain(self, model, count=12, size=1 << 20, settings=None):
        """A publish of staged copies that fails: its error, and the keys that it meant to store."""
        from yr_fastload_native.catalogue.identity import Identity
        from yr_fastload_native.transports.staged import Staged

        keys, who = [], Identity.of({"model": model}, op="test")

        def remember(event, about):
            if event == "yr_fastload_native.publish":
                keys.extend(Staged().data_keys(who, *about[1:]))

        sys.addaudithook(remember)
        try:
            source = placed(weights(1, count, size))
            self._loader(settings or {}).publish(source, {"model": model}, publish_as="staged")
        except self.fl.FastLoadError as error:
            return {"error": error.code, "keys": keys}
        return {"error": None, "keys": keys}

    def load(self, model, seed=1, count=12, size=1 << 20, deadline_s=20.0, settings=None, numpy=False):
        wanted = weights(seed, count, size)
        if numpy or not self.target:
            self.target = placed(blank(wanted))
        target = {name: value.numpy() for name, value in self.target.items()} if numpy else self.target
        started = time.monotonic()
        try:
            loader = self._loader(settings or {})
            started = time.monotonic()
            report = loader.load(target, {"model": model}, deadline_s=deadline_s)
        except self.fl.FastLoadError as error:
            return {"error": error.code, "message": str(error), "seconds": time.monotonic() - started}
        equal = all(same_bytes(self.target[name], value) for name, value in wanted.items())
        return {
            "equal": equal,
            "transport": report.transport,
            "steps": report.steps,
            "retried": report.chunks_retried,
            "seconds": time.monotonic() - started,
        }

    def round(self, model, number, do):
        """Part of a long series, with one loader: publish and withdraw, or load. Returns what this process holds."""
        if not self.loaders:
            self._loader({"hold": False})
        wanted = weights(number % 3, 3, 1 << 20)
        equal = True
        if do == "publish":
            self.publications[model] = self.loaders[0].publish(placed(wanted), {"model": model, "round": number})
            assert self.publications[model].wait_settled(30)
        elif do == "withdraw":
            # In the background: openYuanrong takes a second to let go of a connection that was used.
            threading.Thread(target=self.publications.pop(model).close).start()
        elif do == "load":
            self.target = self.target or placed(blank(wanted))
            self.spoil()
            try:
                self.loaders[0].load(self.target, {"model": model, "round": number})
            except self.fl.FastLoadError as error:
                return {"equal": False, "error": str(error)}
            equal = all(same_bytes(self.target[name], value) for name, value in wanted.items())
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held
        process = psutil.Process()
        counters = self.counters()
        return {
            "equal": equal,
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "rss": process.memory_info().rss,
            "alive": {key: counters[key] for key in ("streams", "events", "notifies", "comms", "memory_errors")},
            "left": self.loaders[0].stats()["connections_left_behind"],
        }

    def idle(self):
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        return self.round("", 0, "nothing")

    def spoil_source(self):
        """Change what is published, as a program must not."""
        overwrite(self.source)
        return {}

    def spoil(self):
        """Change what was loaded, as a program must not."""
        overwrite(self.target)
        return {}

    def write(self, how):
        """Change what is published by torch's own means."""
        value = next(iter(self.source.values()))
        if how == "same":
            value.copy_(value.cpu())
        elif how == "other":
            value.copy_(value.cpu() + 1)
        elif how == "moved":
            value.set_((value.cpu() + 1).to(value.device))
        return {}

    def serving(self, model):
        return {"chunks": self.publications[model]._peer.source.serving()}

    def settled(self, model, wait_s=30):
        return {"settled": self.publications[model].wait_settled(wait_s), "failure": self.publications[model].failure}

    def states(self):
        return {"states": [publication.state for publication in self.publications.values()]}

    def check(self, model):
        return {"changed": self.loaders[0].check(self.publications[model]), **self.states()}

    def load_from_threads(self, model, devices):
        """With one loader of the main thread's, from a thread for each device; None: one without."""
        loader, found = self._loader({"hold": False}), []

        def load(device):
            if device is not None:
                set_device(device)
            wanted = weights(1, 12, 1 << 20)
            target = placed(blank(wanted))
            loader.load(target, {"model": model})
            found.append(all(same_bytes(target[name], value) for name, value in wanted.items()))

        for device in devices:
            thread = threading.Thread(target=load, args=(device,))
            thread.start()
            thread.join()
        return {"equal": found, "thread": self.devices()["thread"]}

    def devices(self):
        """Those that loaders of this process have used, and that of the main thread."""
        from yr_fastload_native import _core

        used = {name for loader in self.loaders for name in loader.stats()["devices"]}
        return {"used": sorted(used), "thread": _core.current_acl_device()}

    def snapshot(self):
        self.before = {name: memory_of(value).copy() for name, value in self.target.items()}
        return {}

    def unchanged(self):
        return {"unchanged": all((memory_of(self.target[name]) == was).all() for name, was in self.before.items())}

    def close(self):
        for loader in self.loaders:
            loader.close()
        self.loaders.clear()
        return {}

    def counters(self):
        from yr_fastload_native import sim

        return sim.counters()


def _commands(task):
    set_device(int(os.environ["NODE_DEVICE"]))
    if os.environ.get("NODE_TORCH_NPU"):
        import torch
        import torch_npu_path  # noqa: F401

        torch.npu.set_device(int(os.environ["NODE_DEVICE"]))
    return Commands()


if __name__ == "__main__":
    serve(_commands)
