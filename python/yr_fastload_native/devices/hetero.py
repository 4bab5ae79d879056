"""Devices whose memory openYuanrong itself moves, by its HeteroClient: between devices, and to and from the worker."""

from __future__ import annotations

import attrs

from yr_fastload_native import _core
from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.errors import DeviceError

__all__ = ["HeteroContext", "HeteroKind", "hetero"]


class HeteroKind(DeviceKind):
    """A kind that `d2d` and `staged` reach."""

    by_reference = True

    def open(
        self, index: int, connection: _core.Connection | None, *, staging_bytes: int, pin: str = "slots"
    ) -> HeteroContext:
        if connection is None:
            raise DeviceError(
                f"tensors are on {self.label(index)}, and a store that was given moves only those in CPU memory",
                op="device",
            )
        device = self.open_device(index)
        receiver = _core.HeteroReceiver(connection, device=device, landing_bytes=staging_bytes)
        return HeteroContext(self, device, _core.PinnedPool(device, staging_bytes), receiver)


@attrs.frozen
class HeteroContext(DeviceContext):
    """A device with a connection of its own.

    Attributes:
        receiver: The connection, and device memory where chunks land.
    """

    receiver: _core.HeteroReceiver

    def prepare(self) -> None:
        self.receiver.prepare()

    def stats(self) -> dict[str, dict[str, int] | None]:
        return {"staging": self.pool.stats(), "landing": self.receiver.stats()}


def hetero(context: DeviceContext, *, op: str) -> HeteroContext:
    """The context of such a device.

    Raises:
        DeviceError: It is of another kind.
    """
    if not isinstance(context, HeteroContext):
        raise DeviceError(f"openYuanrong moves no tensors {context.kind.where} by itself; use 'auto' or 'host'", op=op)
    return context
