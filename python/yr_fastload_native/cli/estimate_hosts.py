"""How long machines of a cluster wait for a model by `host`, for ``yr-fastload estimate --machines``.

A model crosses the link of each machine once, whatever number of readers are there. Of n machines that read at once,
the one that is the k-th to want a chunk gets it from one of k that have it, so that the publisher sends 1 + 1/2 + ... +
1/n models (docs/cluster.md); its link, or the workers at its ends, are what all of them wait for.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from yr_fastload_native.cli.estimate_costs import Costs

__all__ = ["WORKER_GB_PER_S", "MachinesLoad"]

# What was measured between network namespaces (docs/cluster.md): of a slow link, and of one that is as fast as memory.
_LINK_SHARE = 0.92
WORKER_GB_PER_S = 0.9
_BITS, _GIGA = 8, 1e9


@attrs.frozen(kw_only=True)
class MachinesLoad:
    """A simultaneous load on some machines.

    Attributes:
        size: Bytes of the model.
        tensors: Number of them.
        machines: That read.
        link_gbps: Gbit/s that a machine's link carries each way.
        worker_gb_per_s: What a worker takes from another at most, GB/s.
    """

    size: float
    tensors: int
    machines: int
    link_gbps: float
    worker_gb_per_s: float = WORKER_GB_PER_S

    @property
    def models_sent(self) -> float:
        """By the publisher's machine."""
        return math.fsum(1 / place for place in range(1, self.machines + 1))

    @property
    def bytes_per_s(self) -> float:
        """That a machine gets from one other."""
        return min(self.link_gbps * _GIGA / _BITS * _LINK_SHARE, self.worker_gb_per_s * _GIGA)

    def stages(self, costs: Costs) -> dict[str, float]:
        """Seconds by stage until the last machine has everything."""
        return {
            "manifest": costs.manifest_s,
            "tensors": self.tensors * costs.tensor_us / 1e6,
            "transfer": self.models_sent * self.size / self.bytes_per_s,
        }

    def assumptions(self, costs: Costs) -> list[str]:
        """What is taken for granted, in words."""
        return [
            f"a machine's link carries {self.link_gbps:g} Gbit/s each way, of which {_LINK_SHARE:.0%} are used, and a "
            f"worker takes {self.worker_gb_per_s:g} GB/s at most: measured between network namespaces of one machine",
            f"{self.machines} machines that begin at once have the publisher send {self.models_sent:.2f} models; its "
            "link is what they wait for",
            f"{costs.manifest_s * 1e3:.0f} ms for the manifest and {costs.tensor_us:.1f} us per tensor; bytes are "
            "verified while others arrive",
        ]

    def record(self, costs: Costs, **more: Any) -> dict[str, Any]:
        """For JSON."""
        stages = self.stages(costs)
        return {
            **more,
            "tensors": self.tensors,
            "machines": self.machines,
            "link_gbps": self.link_gbps,
            "seconds": math.fsum(stages.values()),
            "stages": stages,
            "publisher_sends_bytes": self.models_sent * self.size,
            "assumptions": self.assumptions(costs),
        }
