"""What a process of `nodes` has made and keeps."""

from __future__ import annotations

import os

PATIENT_S = 30  # with a source that a busy machine keeps from sending; a load's own deadline is what ends a wait then
LEASE_S = 60  # outlives a machine that stands still for a while


class State:
    def __init__(self):
        import yr_fastload_native as fl

        self.fl = fl
        self.loaders = []
        self.publications = {}
        self.target = {}
        self.held = {}
        self.pending = []  # what is written later, until then

    def _loader(self, settings):
        from yr_fastload_native import sim

        asked = {"publish_as": "d2d"} if sim.active("cuda") else {}  # on an NPU that is the default
        settings = {"source_stall_s": PATIENT_S, "lease_s": LEASE_S, **asked, **settings}
        loader = self.fl.FastLoader(self.fl.Config(worker=os.environ["NODE_WORKER"], **settings))
        self.loaders.append(loader)
        return loader
