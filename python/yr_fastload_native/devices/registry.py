"""The kinds of devices that there are, and which one a framework means."""

from __future__ import annotations

import functools
from typing import Any

from yr_fastload_native.devices.cpu import ORDINARY_MEMORY
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.kind import DeviceId, DeviceKind
from yr_fastload_native.devices.npu import NPU

__all__ = ["KINDS", "accelerators", "copy_threads", "of_dlpack", "of_torch", "reached"]

KINDS: tuple[DeviceKind, ...] = (ORDINARY_MEMORY, NPU, CUDA)

_BY_NAME = {kind.name: kind for kind in KINDS}
_BY_DLPACK_TYPE = {number: kind for kind in KINDS for number in kind.dlpack_types}


@functools.lru_cache(maxsize=256)
def of_torch(device: Any) -> DeviceId | None:
    """What a ``torch.device`` is; None if it is of no kind that is registered."""
    kind = _BY_NAME.get(device.type)
    return None if kind is None else kind.at(device.index)


def of_dlpack(device_type: int, index: int) -> DeviceId | None:
    """What a DLPack device is; None if tensors of it are not read by DLPack."""
    kind = _BY_DLPACK_TYPE.get(device_type)
    return None if kind is None else kind.at(index)


def accelerators() -> list[DeviceKind]:
    """Kinds beside ordinary memory of which this process can use a device."""
    return [kind for kind in KINDS if kind is not ORDINARY_MEMORY and kind.is_available()]


def copy_threads() -> int:
    """Most threads that are worth it in this process, where no setting says how many."""
    return max(kind.copy_threads for kind in [ORDINARY_MEMORY, *accelerators()])


def reached(*, dlpack: bool = False) -> str:
    """Where tensors move, for messages.

    Args:
        dlpack: Whether these are tensors that are read by DLPack.
    """
    found = [kind.where if kind.dlpack_types or not dlpack else f"torch's {kind.where}" for kind in KINDS]
    return f"{', '.join(found[:-1])} and {found[-1]}"
