"""How much memory a worker's pool may use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from yr_fastload_native.errors import ResourceExhaustedError

__all__ = ["available_memory_bytes", "pool_mb"]

_MIB = 1 << 20
_MIN_POOL_MB = 256


def available_memory_bytes() -> int:
    """Memory that can be used now without swapping, within the limits of all control groups above this process."""
    return min([int(psutil.virtual_memory().available), *_cgroup_headroom()])


def pool_mb(asked_mb: int) -> int:
    """The size of the pool, MiB; refused if it could not be filled.

    The worker itself accepts any size: one with 400 GB started on a machine with 24 GB, and would be killed when it
    fills up. Memory is the limit, not /dev/shm, because the pool is a memfd: with a /dev/shm of 1 MiB, a worker of 4096
    MiB served 1 GiB (measured, 0.8.1).
    """
    available_mb = available_memory_bytes() // _MIB
    memory_mb = asked_mb or max(_MIN_POOL_MB, available_mb // 2)
    if memory_mb > available_mb:
        raise ResourceExhaustedError(
            f"a worker of {memory_mb} MiB does not fit: {available_mb} MiB are available; use a smaller memory_mb "
            "(about half of it leaves room for the model), or free some",
            op="worker start",
        )
    return memory_mb


def _cgroup_headroom(
    mount: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Iterator[int]:
    """Bytes that each cgroup above this process leaves it; page cache counts as free.

    Source: the kernel's cgroup-v2.rst (memory.max, memory.current, memory.stat) and cgroup-v1/memory.rst.
    """
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                top, limit, usage, cache = mount, "memory.max", "memory.current", "inactive_file"
            elif "memory" in controllers.split(","):
                top, cache = mount / "memory", "total_inactive_file"
                limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            group = top / path.lstrip("/")
            # In a container the path may be the host's, while the mount begins at the container's own group.
            for directory in (group, *group.parents):
                if directory.is_relative_to(top):
                    with contextlib.suppress(OSError, ValueError):  # no such file; the text "max"
                        free = int((directory / limit).read_text()) - int((directory / usage).read_text())
                        yield max(0, free + _cached(directory / "memory.stat", cache))


def _cached(statistics: Path, name: str) -> int:
    found = re.search(rf"^{name} (\d+)$", statistics.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
