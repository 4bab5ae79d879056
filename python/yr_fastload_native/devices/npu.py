"""Ascend's NPUs, real or simulated."""

from __future__ import annotations

import functools
import glob
import sys

from yr_fastload_native import _core, sim
from yr_fastload_native.devices.hetero import HeteroKind
from yr_fastload_native.errors import DeviceError

__all__ = ["NPU"]


@functools.cache
def _is_available() -> bool:
    if not sim.active() and not glob.glob("/dev/davinci[0-9]*"):
        return False
    return _core.acl_device_count() > 0


class _Npu(HeteroKind):
    name = "npu"
    where = "on NPUs"

    def label(self, index: int) -> str:
        return f"NPU {index}"

    def is_available(self) -> bool:
        return _is_available()

    def current(self) -> int:
        """As `aclrtSetDevice` has set it, which `torch.npu.set_device` calls."""
        return _core.current_acl_device()

    def stands_in(self) -> bool:
        return sim.active()

    def open_device(self, index: int) -> _core.Device:
        if not self.is_available():
            raise DeviceError(
                f"tensors are on NPU {index}, but this process has none; source CANN's set_env.sh", op="device"
            )
        return _core.acl_device(index)

    def synchronize(self, index: int) -> None:
        npu = getattr(sys.modules.get("torch"), "npu", None)  # torch_npu's, if the program has imported it
        if npu is not None:
            npu.current_stream(index).synchronize()


NPU = _Npu()
