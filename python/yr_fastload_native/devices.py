"""Devices of this process: ordinary memory, and Ascend's NPUs, real or simulated."""

from __future__ import annotations

import functools
import glob

import attrs

from yr_fastload_native import _core, sim
from yr_fastload_native.config import Config
from yr_fastload_native.errors import DeviceError
from yr_fastload_native.tensors import TensorTable

__all__ = ["Site", "Sites", "has_npu"]


@functools.cache
def has_npu() -> bool:
    """Whether this process can use an NPU, real or simulated. Loads Ascend's runtime only where one may be."""
    if not sim.active() and not glob.glob("/dev/davinci[0-9]*"):
        return False
    return _core.acl_device_count() > 0


@attrs.frozen
class Site:
    """A device, and the memory that transports need beside the tensors on it.

    Attributes:
        receiver: Connection for transports between devices; None for ordinary memory.
    """

    device: _core.Device
    pool: _core.PinnedPool
    receiver: _core.HeteroReceiver | None

    @property
    def is_npu(self) -> bool:
        return self.receiver is not None


class Sites:
    """The devices that one loader uses, each opened when first asked for."""

    def __init__(self, config: Config, connection: _core.Connection) -> None:
        self._config = config
        self._connection = connection
        self._sites: dict[int, Site] = {}
        self._first = -1  # device of the thread that prepared

    def of(self, table: TensorTable, op: str) -> Site:
        """The device that holds these tensors. Under simulated devices CPU tensors are on the calling thread's.

        Raises:
            DeviceError: They are on an NPU that cannot be used here.
        """
        if table.npu is not None:
            return self._site(table.npu)
        if sim.active() and self._config.transport != "host":
            return self._site(max(0, self._own_device()))
        return self._site(-1)

    def prepare(self) -> None:
        """Connect in the background for the device that tensors are likely to be on."""
        if self._config.transport == "host" or not has_npu():
            return
        self._first = self._own_device()
        if sim.active() or self._first >= 0:
            site = self._site(max(0, self._first))
            assert site.receiver is not None
            site.receiver.prepare()

    def _own_device(self) -> int:
        """The one of the settings, else of this thread (`aclrtSetDevice`, which `torch.npu.set_device` calls), else of
        the thread that made the loader; -1 if there is none.
        """
        if self._config.device_index >= 0:
            return self._config.device_index
        current = _core.current_acl_device()
        return current if current >= 0 else self._first

    def peak_bytes(self, pool: str) -> int:
        """The most that a pool of any device, ``staging`` or ``landing``, has held."""
        found = [site[pool] for site in self.stats().values()]
        return max((each["peak_bytes"] for each in found if each is not None), default=0)

    def stats(self) -> dict[str, dict[str, dict[str, int] | None]]:
        return {
            f"{site.device.name}:{index}" if index >= 0 else site.device.name: {
                "staging": site.pool.stats(),
                "landing": site.receiver.stats() if site.receiver is not None else None,
            }
            for index, site in self._sites.items()
        }

    def close(self) -> None:
        """Let go of the connections."""
        self._sites.clear()

    def _site(self, index: int) -> Site:
        site = self._sites.get(index)
        if site is None:
            site = self._cpu() if index < 0 else self._npu(index)
            site = self._sites.setdefault(index, site)
        return site

    def _cpu(self) -> Site:
        device = _core.cpu_device()
        return Site(device, _core.PinnedPool(device, self._config.staging_bytes), None)

    def _npu(self, index: int) -> Site:
        if not has_npu():
            raise DeviceError(
                f"tensors are on NPU {index}, but this process has none; source CANN's set_env.sh", op="device"
            )
        config = self._config
        device = _core.acl_device(index)
        receiver = _core.HeteroReceiver(self._connection, device=device, landing_bytes=config.staging_bytes)
        return Site(device, _core.PinnedPool(device, config.staging_bytes), receiver)
