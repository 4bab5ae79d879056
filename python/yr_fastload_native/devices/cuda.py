"""CUDA's GPUs, real or simulated."""

from __future__ import annotations

import functools
import glob
import sys
from typing import Any

from yr_fastload_native import _core, sim
from yr_fastload_native.devices.ipc import IpcKind
from yr_fastload_native.devices.kind import WAIT_S, DeviceId

__all__ = ["CUDA"]

_NODES = ("/dev/nvidia[0-9]*", "/dev/dxg")  # of the driver, and of the one in WSL
_LEGACY_STREAM = 1  # CU_STREAM_LEGACY: what DLPack's producers order their work with


@functools.cache
def _is_available() -> bool:
    """Without asking the driver: a process that has initialised it can use no device after it was forked."""
    return sim.active("cuda") or any(glob.glob(nodes) for nodes in _NODES)


class _Cuda(IpcKind):
    name = "cuda"
    where = "on CUDA's GPUs"
    dlpack_types = (2,)  # kDLCUDA
    copy_threads = 16  # H200: 43 GB/s with 8, 50 with 12 to 16

    def label(self, index: int) -> str:
        return f"CUDA device {index}"

    def is_available(self) -> bool:
        return _is_available()

    def current(self) -> int:
        """That of torch, if the program uses CUDA by it: to ask the driver would initialise it."""
        cuda = _torch_cuda()
        return -1 if cuda is None else int(cuda.current_device())

    def open_device(self, index: int) -> _core.Device:
        return _core.cuda_device(index)

    def synchronize(self, index: int) -> None:
        device = _core.cuda_device(index)
        device.wait_for_stream(_LEGACY_STREAM, deadline_s=WAIT_S)
        cuda = _torch_cuda()
        if cuda is not None:
            device.wait_for_stream(cuda.current_stream(index).cuda_stream, deadline_s=WAIT_S)

    def holder(self, address: int, stream: int | None) -> DeviceId:
        """The device whose memory is at an address, once what a stream has to do there is done.

        Raises:
            DeviceError: It is no device's.
        """
        index = _core.cuda_device_of(address)
        if stream is not None:
            _core.cuda_device(index).wait_for_stream(stream, deadline_s=WAIT_S)
        return DeviceId(self, index)


def _torch_cuda() -> Any:
    """torch.cuda, if the program has imported torch and uses CUDA."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


CUDA = _Cuda()
