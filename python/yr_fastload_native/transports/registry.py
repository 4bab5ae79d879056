"""The transports that there are."""

from __future__ import annotations

from collections.abc import Iterable

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.kind import DeviceContext
from yr_fastload_native.transports.d2d.peer import Peer
from yr_fastload_native.transports.d2d.transport import D2d
from yr_fastload_native.transports.host import Host
from yr_fastload_native.transports.jobs import StoreSession
from yr_fastload_native.transports.staged import Staged
from yr_fastload_native.transports.transport import Transport

__all__ = ["ALL", "data_keys", "named", "peer_of"]

ALL: tuple[Transport, ...] = (D2d(), Staged(), Host())  # in the order of `config.TRANSPORTS`


def named(names: Iterable[str]) -> list[Transport]:
    """Those with these names, in the order to try them; others may have told of transports that are unknown here."""
    wanted = set(names)
    return [transport for transport in ALL if transport.name in wanted]


def data_keys(who: Identity, generation: str, chunks: int, names: Iterable[str]) -> list[str]:
    """What a generation's chunks take in the store, by all transports that it offers."""
    return [key for transport in named(names) for key in transport.data_keys(who, generation, chunks)]


def peer_of(
    transports: Iterable[Transport], worker: StoreSession, who: Identity, generation: str, context: DeviceContext
) -> Peer | None:
    """This process's part in a generation, if one of these transports serves it by reference."""
    for transport in transports:
        peer = transport.peer(worker, who, generation, context)
        if peer is not None:
            return peer
    return None
