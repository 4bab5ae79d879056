"""The devices that one loader uses."""

from __future__ import annotations

from yr_fastload_native import _core
from yr_fastload_native.devices.cpu import CPU
from yr_fastload_native.devices.kind import DeviceContext, DeviceId, DeviceKind
from yr_fastload_native.devices.registry import KINDS, accelerators
from yr_fastload_native.settings import Config
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["DeviceContexts"]


class DeviceContexts:
    """A context of each device, opened when first asked for.

    Args:
        connection: None where there is only a store; devices that openYuanrong moves itself cannot be used then.
    """

    def __init__(self, config: Config, connection: _core.Connection | None) -> None:
        self._config = config
        self._connection = connection
        self._contexts: dict[DeviceId, DeviceContext] = {}
        self._first: dict[DeviceKind, int] = {}  # device of the thread that prepared

    def of(self, table: TensorTable) -> DeviceContext:
        """The device that holds these tensors, which may be read and written from now on.

        Under simulated devices CPU tensors are on the calling thread's.

        Raises:
            DeviceError: They are on a device that cannot be used here.
        """
        device = table.device
        if device == CPU and self._connection is not None and self._config.transport != "host":
            stand_ins = [DeviceId(kind, max(0, self._own(kind))) for kind in KINDS if kind.stands_in()]
            device = stand_ins[0] if stand_ins else CPU
        context = self._context(device)
        context.synchronize()
        return context

    def prepare(self) -> None:
        """Connect in the background for the device that tensors are likely to be on."""
        if self._config.transport == "host":
            return
        for kind in accelerators():
            self._first[kind] = self._own(kind)
            if kind.stands_in() or self._first[kind] >= 0:
                self._context(DeviceId(kind, max(0, self._first[kind]))).prepare()

    def _own(self, kind: DeviceKind) -> int:
        """That of the settings, else of this thread, else of the thread that made the loader; -1 if there is none."""
        if self._config.device_index >= 0:
            return self._config.device_index
        current = kind.current()
        return current if current >= 0 else self._first.get(kind, -1)

    def peak_bytes(self, pool: str) -> int:
        """The most that a pool of any device, ``staging`` or ``landing``, has held."""
        found = [context[pool] for context in self.stats().values()]
        return max((each["peak_bytes"] for each in found if each is not None), default=0)

    def stats(self) -> dict[str, dict[str, dict[str, int] | None]]:
        return {
            f"{context.device.name}:{device.index}" if device.index >= 0 else context.device.name: context.stats()
            for device, context in self._contexts.items()
        }

    def close(self) -> None:
        """Let go of the connections."""
        self._contexts.clear()

    def _context(self, device: DeviceId) -> DeviceContext:
        context = self._contexts.get(device)
        if context is None:
            config = self._config
            context = device.kind.open(
                device.index, self._connection, staging_bytes=config.staging_bytes, pin=config.pin
            )
            context = self._contexts.setdefault(device, context)
        return context
