"""Which transports a publication offers, and which ones a load tries, in which order: decided here and nowhere else."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Sequence

import attrs

from yr_fastload_native.devices.kind import DeviceContext, DeviceKind
from yr_fastload_native.errors import DeviceError
from yr_fastload_native.settings import Config
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.transport import Transport

__all__ = ["Candidate", "chunk_bytes", "servable", "to_offer", "to_try"]

_log = logging.getLogger(__name__)


@attrs.frozen
class Candidate:
    """A transport for a load.

    Attributes:
        why_not: Why it is not tried; None if it is.
    """

    transport: Transport
    why_not: str | None


def to_offer(config: Config, kind: DeviceKind) -> list[Transport]:
    """The transports that a new publication offers.

    ``publish_as`` names them; by default that of ``transport``, and for ``auto`` the fastest one that reaches the
    tensors' device: by reference on an NPU, a copy in the worker's memory elsewhere. On a GPU, by reference has to be
    asked for.

    Raises:
        DeviceError: One of them does not reach it.
    """
    named = config.publish_as if config.publish_as != "auto" else config.transport
    if named == "auto":
        suited = (each for each in registry.ALL if kind.by_reference or not each.by_reference)
        return [next(transport for transport in suited if transport.reaches(kind))]
    wanted = registry.named(named.split("+"))
    missing = [transport.name for transport in wanted if not transport.reaches(kind)]
    if missing:
        raise DeviceError(
            f"transport {missing[0]!r} moves no tensors {kind.where}; use 'auto' or 'host', or run under "
            "`yr-fastload sim --`",
            op="publish",
        )
    return wanted


def servable(offered: Sequence[Transport], context: DeviceContext, addresses: array[int]) -> list[Transport]:
    """Those of the transports that can publish tensors at these addresses; a copy by `host` where none can."""
    kept = []
    for transport in offered:
        why_not = transport.why_not(context, addresses)
        if why_not is None:
            kept.append(transport)
        else:
            _log.warning("published without transport %s, although that was asked for: %s", transport.name, why_not)
    return kept or registry.named(["host"])


def chunk_bytes(config: Config, offered: Sequence[Transport], largest_tensor: int) -> int:
    """The largest chunk of a publication that offers these transports."""
    # Uncut tensors can be aliased, which is worth it where they cannot come any other way.
    uncut = largest_tensor if config.zero_copy is True and len(offered) == 1 else 0
    return min(transport.largest_chunk(config.chunk_bytes, uncut) for transport in offered)


def to_try(config: Config, offered: Iterable[str], kind: DeviceKind) -> list[Candidate]:
    """Every transport that this load may use, in the order to try them, with the reason where one is left out."""
    candidates = []
    for transport in registry.ALL:
        why_not = None
        if config.transport not in ("auto", transport.name):
            why_not = f"transport={config.transport!r} is set"
        elif transport.name not in offered:
            why_not = "the publication does not offer it"
        elif not transport.reaches(kind):
            why_not = f"it moves no tensors {kind.where}"
        candidates.append(Candidate(transport, why_not))
    return candidates
