"""Ends that come at a bad moment: `python lives.py WORKER MODEL TRANSPORT WHAT`, a process with simulated devices.

Every function leaves in a way of its own. What must not follow is a crash, a hang, or a byte where none belongs any
more.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time

import node_tensors
import psutil
import torch
from node_tensors import memory_of, placed, same_bytes

import yr_fastload_native as fl

COUNT, SIZE = 12, 1 << 20
_OTHER = 1  # device, of a reader in the same process that stands for another
_OF_A_READER = {"hold": False, "device_index": _OTHER}
PATTERN = 0x5A


def weights():
    return node_tensors.weights(1, COUNT, SIZE)


def filled(value, index=None):
    """As many tensors of the same sizes, on the first device or another."""
    return placed({name: torch.full_like(tensor, value) for name, tensor in weights().items()}, index)


def right(target):
    return all(same_bytes(target[name], value) for name, value in weights().items())


class StopError(Exception):
    """Of a transfer, by whoever wanted it."""


def interrupt(done, total):
    raise StopError


class Moment:
    """While a transfer runs: `reached` is set then, and whoever waits for it takes its time."""

    def __init__(self):
        self.reached = threading.Event()

    def __call__(self, done, total):
        self.reached.set()
        time.sleep(0.5)


class Life:
    def __init__(self, worker, model, transport):
        self.settings = {"worker": worker, "transport": transport, "publish_as": transport}
        self.settings |= {"chunk_bytes": 1 << 20, "chunks_ahead": 2, "source_stall_s": 1.0, "lease_s": 3}
        self.model = model
        self.loader = fl.FastLoader(fl.Config(**self.settings))

    def load(self, target, progress=None):
        return self.loader.load(target, {"model": self.model}, progress=progress)

    def publish(self, progress=None):
        return self.loader.publish(placed(weights()), {"model": self.model}, progress=progress)

    def wait_for_publish(self, moment):
        """Until it is under way. Only copies into shared memory tell how far they are."""
        if self.settings["transport"] == "host":
            return moment.reached.wait(20)
        time.sleep(0.1)
        return True

    # -- tensors ------------------------------------------------------------------------------------------------

    def drops_tensors_of_a_load(self):
        """Those of a load that was interrupted; what has their memory next keeps its bytes."""
        for _ in range(3):
            target = filled(0)
            try:
                self.load(target, interrupt)
                raise SystemExit("the load was not interrupted")
            except StopError:
                pass
            del target
            gc.collect()
            heirs = filled(PATTERN)
            time.sleep(0.3)
            assert all(bool((memory_of(heir) == PATTERN).all()) for heir in heirs.values())

    def drops_tensors_of_a_publication(self):
        """What was published is served all the same."""
        publication = self.publish()
        gc.collect()
        heirs = filled(PATTERN)
        assert publication.wait_settled(30)
        reader = fl.FastLoader(fl.Config(**self.settings | _OF_A_READER))
        target = filled(0, _OTHER)
        reader.load(target, {"model": self.model})
        assert right(target)
        del heirs

    # -- loaders ------------------------------------------------------------------------------------------------

    def closes_a_loader_during_a_load(self):
        moment = Moment()
        self.close_while(lambda: self.load(filled(0), moment), lambda: moment.reached.wait(20))

    def closes_a_loader_during_a_publish(self):
        moment = Moment()
        self.close_while(lambda: self.publish(moment), lambda: self.wait_for_publish(moment))

    def close_while(self, call, reach):
        """`call` ends by itself, well or with a typed error."""
        ended = []

        def run():
            try:
                call()
                ended.append("well")
            except fl.FastLoadError as error:
                ended.append(error.code)

        thread = threading.Thread(target=run)
        thread.start()
        assert reach()
        self.loader.close()
        self.loader = None
        gc.collect()
        thread.join(40)
        assert not thread.is_alive()
        assert len(ended) == 1, ended

    def closes_a_publication_that_is_read(self):
        """Its reader, in the same process, ends with all bytes right or a typed error."""
        publication = self.publish()
        reader = fl.FastLoader(fl.Config(**self.settings | _OF_A_READER))
        moment, ended, target = Moment(), [], filled(0, _OTHER)

        def load():
            try:
                reader.load(target, {"model": self.model}, progress=moment, deadline_s=10)
                ended.append(right(target))
            except fl.FastLoadError:
                ended.append(True)

        thread = threading.Thread(target=load)
        thread.start()
        assert moment.reached.wait(20)
        publication.close()
        del publication
        gc.collect()
        thread.join(40)
        assert ended == [True]

    # -- the interpreter ----------------------------------------------------------------------------------------

    def exits_during_a_load(self):
        moment = Moment()
        threading.Thread(target=self.load, args=(filled(0), moment), daemon=True).start()
        assert moment.reached.wait(20)

    def exits_during_a_publish(self):
        moment = Moment()
        threading.Thread(target=self.publish, args=(moment,), daemon=True).start()
        assert self.wait_for_publish(moment)

    def exits_by_an_exception_during_a_load(self):
        self.exits_during_a_load()
        raise SystemExit(5)

    def exits_with_an_open_publication(self):
        globals()["kept_to_the_end"] = (self.loader, self.publish())

    def exits_after_a_load_that_serves_others(self):
        target = filled(0)
        self.load(target)
        globals()["kept_to_the_end"] = (self.loader, target)

    # -- forks --------------------------------------------------------------------------------------------------

    def forks(self):
        """The child is told so, and its end takes nothing from its parent."""
        publication = self.publish()
        assert publication.wait_settled(30)
        for leaves in (sys.exit, os._exit):
            child = os.fork()
            if child == 0:
                publication.close()
                self.loader.close()
                try:
                    self.load(filled(0))
                except fl.InvalidArgumentError as error:
                    leaves(0 if "fork" in str(error) else 3)
                leaves(4)
            assert psutil.Process(child).wait(20) == 0
        assert publication.state == "live"
        assert fl.FastLoader(fl.Config(**self.settings | {"hold": False})).is_published({"model": self.model})


if __name__ == "__main__":
    worker, model, transport, what = sys.argv[1:]
    getattr(Life(worker, model, transport), what)()
