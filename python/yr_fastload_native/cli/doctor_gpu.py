"""``yr-fastload doctor``: CUDA's GPUs, and what keeps `d2d` from reaching their memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from yr_fastload_native.cli.finding import Finding
from yr_fastload_native.errors import FastLoadError

__all__ = ["examine_gpus"]

_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")  # before torch 2.9, and since
_PAIRS_NAMED = 4


def examine_gpus() -> Iterator[Finding]:
    """Nothing where there is none. Asks the driver, after which this process must not fork and use a GPU."""
    from yr_fastload_native import _core, sim
    from yr_fastload_native.devices.cuda import CUDA

    if sim.active("cuda"):
        yield Finding("GPU", "note", "simulated devices: right bytes, and rates that say nothing")
    elif not CUDA.is_available():
        return
    try:
        version = _core.cuda_driver_version()
        names = [_core.cuda_device_name(index) for index in range(_core.cuda_device_count())]
        apart = [pair for pair in itertools.permutations(range(len(names)), 2) if not _core.cuda_device_reaches(*pair)]
    except FastLoadError as error:
        yield Finding("GPU", "wrong", str(error), "see `nvidia-smi`; give the container its GPUs")
        return
    yield Finding(
        "GPU",
        "ok",
        f"{len(names)} by CUDA, whose driver knows version {version // 1000}.{version % 1000 // 10}; transport `host` "
        "moves weights through page-locked memory, and `publish_as=d2d` from GPU to GPU",
    )
    yield from _slices(names)
    yield from _apart(apart)
    yield from _processes()


def _slices(names: list[str]) -> Iterator[Finding]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if any(each.startswith("MIG-") for each in visible) or any(" MIG " in f"{name} " for name in names):
        yield Finding(
            "GPU",
            "note",
            "this process sees slices of a card (MIG), between which `d2d` moves nothing",
            "`host` works there; leave publish_as as it is",
        )


def _apart(pairs: list[tuple[int, int]]) -> Iterator[Finding]:
    """Of devices, the first of which cannot read the memory of the second."""
    if pairs:
        named = ", ".join(f"{one} from {other}" for one, other in pairs[:_PAIRS_NAMED])
        yield Finding(
            "GPU",
            "note",
            f"{len(pairs)} pairs of GPUs have no peer access ({named}{', ...' if len(pairs) > _PAIRS_NAMED else ''}): "
            "between them `d2d` moves nothing, and loads go by `host`",
            "publish with d2d+host; see `nvidia-smi topo -p2p r`",
        )


def _processes() -> Iterator[Finding]:
    from yr_fastload_native.devices.ipc import in_first_ipc_namespace

    if not in_first_ipc_namespace():
        yield Finding(
            "GPU",
            "note",
            "this process is in an IPC namespace of its own: `d2d` reaches only processes of the same container",
            "start containers that are to exchange weights by d2d with --ipc=host",
        )
    for name in _ALLOCATOR:
        if "expandable_segments:true" in os.environ.get(name, "").lower():
            yield Finding(
                "GPU",
                "note",
                f"{name} has expandable_segments:True: other processes cannot open such memory, so `d2d` publishes a "
                "copy instead",
                "leave it out where d2d is wanted",
            )
