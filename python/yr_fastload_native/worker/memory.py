"""How much memory a worker's pool may use."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from yr_fastload_native.errors import ResourceExhaustedError

__all__ = ["available_memory_bytes", "huge_pages_mb", "pool_flags", "pool_mb"]

_MIB = 1 << 20
_MIN_POOL_MB = 256
_MEMINFO = Path("/proc/meminfo")
# A pool that is taken at once has to be in one piece, whose memory nobody allocates a second time. In this order: the
# worker checks the last one against the others as it reads it (0.8.1).
_POPULATED = {"arena_per_tenant": "1", "enable_fallocate": "false", "shared_memory_populate": "true"}


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


def huge_pages_mb(asked_mb: int, meminfo: Path = _MEMINFO) -> int:
    """The size of a pool of huge pages, MiB; refused if fewer are free.

    The worker itself waits for them for ever (0.8.1).

    Source: the kernel's hugetlbpage.rst (HugePages_Free, HugePages_Rsvd, Hugepagesize).
    """
    has = dict(re.findall(r"^(\w+):\s+(\d+)", meminfo.read_text(), re.MULTILINE))
    free, promised, page_kb = (int(has.get(name, 0)) for name in ("HugePages_Free", "HugePages_Rsvd", "Hugepagesize"))
    free_mb = (free - promised) * page_kb // 1024
    if not free_mb or asked_mb > free_mb:
        wanted_mb = asked_mb or _MIN_POOL_MB
        raise ResourceExhaustedError(
            f"{free_mb} MiB of huge pages are free, not {wanted_mb}; reserve them with `sysctl -w vm.nr_hugepages="
            f"{-(-wanted_mb * 1024 // (page_kb or 2048))}` or more, or leave out --huge-pages",
            op="worker start",
        )
    return asked_mb or free_mb


def pool_flags(*, huge_pages: bool = False, populate: bool = False) -> dict[str, str]:
    """The flags of openYuanrong for how the memory of a pool is taken.

    Args:
        huge_pages: From those that the system has reserved.
        populate: All of it at once, instead of as objects arrive.
    """
    return {**({"enable_huge_tlb": "true"} if huge_pages else {}), **(_POPULATED if populate else {})}


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
