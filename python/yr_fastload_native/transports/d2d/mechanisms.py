"""How `d2d` moves tensors on each kind of device."""

from __future__ import annotations

from yr_fastload_native.devices.hetero import HeteroKind
from yr_fastload_native.devices.ipc import IpcKind
from yr_fastload_native.devices.kind import DeviceKind
from yr_fastload_native.transports.d2d.hetero_peer import HeteroPeer
from yr_fastload_native.transports.d2d.ipc_peer import IpcPeer
from yr_fastload_native.transports.d2d.peer import Peer

__all__ = ["peer_type"]


def peer_type(kind: DeviceKind) -> type[Peer] | None:
    """What serves and reads tensors on such devices; None if `d2d` does not reach them."""
    if isinstance(kind, HeteroKind):
        return HeteroPeer
    return IpcPeer if isinstance(kind, IpcKind) else None
