"""What a measurement of whole models needs: memory that suffices, a worker of its own, devices."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping

from yr_fastload_native.errors import ResourceExhaustedError
from yr_fastload_native.process.scratch import HOME, scratch

__all__ = ["device_count", "device_environment", "private_worker", "require_memory", "touch_memory"]

_MIB = 1 << 20
_OVERHEAD_MB = 512  # interpreters, the worker, and room to breathe


def require_memory(total: int, *, copies: int, op: str) -> None:
    """Refuse a model of ``total`` bytes of which ``copies`` at a time would not fit into memory.

    Raises:
        ResourceExhaustedError: They would not; the message says which size would.
    """
    from yr_fastload_native.worker.memory import available_memory_bytes

    available = available_memory_bytes()
    needed = copies * total + _OVERHEAD_MB * _MIB
    if needed > available:
        fits_mb = max(0, available // _MIB - _OVERHEAD_MB) // copies
        raise ResourceExhaustedError(
            f"about {needed // _MIB} MiB of memory are needed and {available // _MIB} are available; "
            f"a checkpoint of {fits_mb} MiB would fit: use --size-mb, or free some",
            op=op,
        )


@contextlib.contextmanager
def private_worker(total: int, note: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Address of a worker that has room for ``total`` bytes, and ends with the block; ``note`` says that it starts."""
    from yr_fastload_native.worker import LocalWorker

    note("starting a private openYuanrong worker")
    with (
        scratch("worker") as made,
        LocalWorker(home=made / HOME, memory_mb=math.ceil(total / _MIB * 1.25) + _OVERHEAD_MB) as worker,
    ):
        yield worker.address


def device_environment(transport: str) -> tuple[dict[str, str], bool]:
    """The environment for processes that use a transport, and whether their devices are simulated.

    Transports between devices get simulated ones where this machine has none.
    """
    from yr_fastload_native import sim

    if transport not in ("d2d", "staged") or (sim.real_device() is not None and not sim.active()):
        return dict(os.environ), False
    return sim.environment(), True


def device_count(environment: Mapping[str, str]) -> int:
    """How many devices processes with this environment have, at least one; simulated or of this machine."""
    from yr_fastload_native import sim

    return max(1, sim.device_count(environment))


def touch_memory(size: int) -> None:
    """Write to ``size`` bytes of new memory and free them, right before a step that will take as much.

    The host of a virtual machine backs memory when it is first touched, and may take it back seconds after it is
    freed (free page reporting). On one of 2 cores with 1 GiB of tensors, a load with the page cache dropped took
    1.7 s without this and 0.6 s with it, a pull 1.1 s and 0.4 s: a step would measure the host. From numpy, as the
    tensors are, which asks for huge pages: a mapping of small ones helped less.
    """
    import numpy as np

    np.empty(size, np.uint8)[:: mmap.PAGESIZE] = 1
