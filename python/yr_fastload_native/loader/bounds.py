"""Every bound of a loader, and what was used of it."""

from __future__ import annotations

import os
import resource

from yr_fastload_native import _core
from yr_fastload_native.process.peaks import Peaks
from yr_fastload_native.settings import Config
from yr_fastload_native.transports.device_contexts import DeviceContexts

__all__ = ["bounds"]


def bounds(config: Config, copy_threads: int, usage: Peaks, devices: DeviceContexts) -> dict[str, dict[str, int]]:
    """By name the ``cap`` of each, and its ``peak`` or what is ``used`` now; see `FastLoader.stats`."""
    transfers = _core.transfer_peaks()
    peaks = {
        "copy_threads": (copy_threads, transfers["copy_threads"]),
        "chunks_in_flight": (config.chunks_in_flight, transfers["chunks_in_flight"]),
        "tensors": (config.max_tensors, usage.most("tensors")),
        "manifest_bytes": (config.max_manifest_bytes, usage.most("manifest_bytes")),
        "staging_bytes": (config.staging_bytes, devices.peak_bytes("staging")),
        "landing_bytes": (config.staging_bytes, devices.peak_bytes("landing")),
    }
    used = {
        "threads_left_behind": (_core.MOST_THREADS_LEFT_BEHIND, _core.threads_left_behind()),
        "connections_left_behind": (_core.MOST_CONNECTIONS_LEFT_BEHIND, _core.connections_left_behind()),
        "descriptors": (resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/proc/self/fd"))),
    }
    return {name: {"cap": cap, "peak": peak} for name, (cap, peak) in peaks.items()} | {
        name: {"cap": cap, "used": now} for name, (cap, now) in used.items()
    }
