"""A process that has digests taken by its simulated device: what tests of them are made of."""

from __future__ import annotations

from array import array

import numpy as np

from yr_fastload_native import _core, sim
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.measuring.child_process import serve

KIND = "matrix64-1"
PRODUCT = "aclnnQuantMatmulV4"


class Commands:
    def __init__(self, _):
        self.device = NPU.open_device(0)
        self.pool = _core.PinnedPool(self.device, 64 << 20)

    def works(self):
        return {"works": _core.digests_on_device(self.device, self.pool, deadline_s=60)}

    def digests(self, sizes, chunk_bytes, threads):
        """Of tensors at odd places of a block: by the device, and of the same bytes by the CPU."""
        starts = [3]
        for size in sizes:
            starts.append(starts[-1] + size + 5)
        data = np.random.default_rng(1).integers(0, 256, starts.pop(), np.uint8)
        memory = _core.DeviceMemory(self.device, data.nbytes)
        memory.write(0, data.data, deadline_s=60)
        plan = _core.make_plan(array("Q", sizes), chunk_bytes=chunk_bytes, max_blobs=50)
        terms = {"copy_threads": threads, "deadline_s": 60, "digest": KIND}

        def of(base, **where):
            return list(_core.digest_chunks(plan, array("Q", [base + start for start in starts]), **terms, **where))

        mine = of(memory.address, device=self.device, pool=self.pool)
        counters = sim.counters()
        return {
            "equal": mine == of(data.ctypes.data),
            "chunks": len(mine),
            "products": counters["calls"].get(PRODUCT, 0),
            "errors": sum(counters["memory_errors"].values()),
            "leased": self.pool.stats()["leased_bytes"],
        }


if __name__ == "__main__":
    serve(Commands)
