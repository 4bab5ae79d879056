"""Ascend's NPUs, real or simulated."""

from __future__ import annotations

import functools
import glob
import sys
from collections.abc import Iterable
from typing import Any

from yr_fastload_native import _core, sim
from yr_fastload_native.devices.hetero import HeteroKind
from yr_fastload_native.devices.kind import WAIT_S
from yr_fastload_native.errors import DeviceError

__all__ = ["NPU"]

# aclFormat of CANN's acl_base.h.
_ND = 2
_PLAIN_FORMATS = frozenset({-1, 0, 1, _ND, 27, 30})  # undefined, NCHW, NHWC, ND, NDHWC, NCDHW
_PRIVATE_FORMATS = {3: "NC1HWC0", 4: "FRACTAL_Z", 29: "FRACTAL_NZ"}


@functools.cache
def _is_available() -> bool:
    if not sim.active() and not glob.glob("/dev/davinci[0-9]*"):
        return False
    return _core.acl_device_count() > 0


class _Npu(HeteroKind):
    name = "npu"
    where = "on NPUs"
    digest = "matrix64-1"
    dlpack_types = (12,)  # kDLExtDev: what torch calls tensors of torch_npu there

    def label(self, index: int) -> str:
        return f"NPU {index}"

    def is_available(self) -> bool:
        return _is_available()

    def current(self) -> int:
        """As `aclrtSetDevice` has set it, which `torch.npu.set_device` calls."""
        return _core.current_acl_device()

    def stands_in(self) -> bool:
        return sim.active() and not sim.opaque()

    def open_device(self, index: int) -> _core.Device:
        if not self.is_available():
            raise DeviceError(
                f"tensors are on NPU {index}, but this process has none; source CANN's set_env.sh", op="device"
            )
        return _core.acl_device(index)

    def private_format(self, tensors: Iterable[Any]) -> tuple[int, str] | None:
        """Such as NZ: blocks of 16 columns, padded; what a view shows of them is not what is there."""
        get = getattr(sys.modules.get("torch_npu"), "get_npu_format", None)
        if get is None:
            return None
        for index, tensor in enumerate(tensors):
            number = int(get(tensor)) if getattr(tensor, "is_npu", False) else _ND
            if number not in _PLAIN_FORMATS:
                return index, _PRIVATE_FORMATS.get(number, str(number))
        return None

    def synchronize(self, index: int) -> None:
        """Of torch's current stream: to ask torch_npu for its handle empties the queue of launches on the host too."""
        npu = getattr(sys.modules.get("torch"), "npu", None)  # torch_npu's, if the program has imported it
        if npu is not None and npu.is_initialized():
            _core.acl_device(index).wait_for_stream(npu.current_stream(index).npu_stream, deadline_s=WAIT_S)


NPU = _Npu()
