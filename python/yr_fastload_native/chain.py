"""Which transports a publication offers, and which ones a load tries, in which order: decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from yr_fastload_native import _core
from yr_fastload_native.config import TRANSPORTS, Config
from yr_fastload_native.devices.hetero import HeteroKind
from yr_fastload_native.devices.kind import DeviceKind
from yr_fastload_native.errors import DeviceError

__all__ = ["Candidate", "chunk_bytes", "reaches", "to_offer", "to_try"]

_BY_OPENYUANRONG = ("d2d", "staged")
_MIB = 1 << 20
# Few keys where bytes cost little beside a key (`d2d`); small enough to overlap fetching with copying (`host`); and
# several at a time in openYuanrong's pool (`staged`).
_CHUNK_BYTES = {"d2d": 128 * _MIB, "host": 32 * _MIB, "staged": _core.STAGED_CHUNK_BYTES}
_UNCUT_BYTES = 4096 * _MIB  # a tensor beyond that is cut all the same


@attrs.frozen
class Candidate:
    """A transport for a load.

    Attributes:
        why_not: Why it is not tried; None if it is.
    """

    transport: str
    why_not: str | None


def reaches(transport: str, kind: DeviceKind) -> bool:
    """Whether a transport moves tensors on devices of this kind."""
    return transport not in _BY_OPENYUANRONG or isinstance(kind, HeteroKind)


def to_offer(config: Config, kind: DeviceKind) -> list[str]:
    """The transports that a new publication offers.

    ``publish_as`` names them; by default that of ``transport``, and for ``auto`` the fastest one that reaches the
    tensors' device: by reference on an NPU, a copy in the worker's memory elsewhere.

    Raises:
        DeviceError: One of them does not reach it.
    """
    named = config.publish_as if config.publish_as != "auto" else config.transport
    if named == "auto":
        named = next(transport for transport in TRANSPORTS if reaches(transport, kind))
    wanted = named.split("+")
    missing = [transport for transport in wanted if not reaches(transport, kind)]
    if missing:
        raise DeviceError(
            f"transport {missing[0]!r} moves no tensors {kind.where}; use 'auto' or 'host', or run under "
            "`yr-fastload sim --`",
            op="publish",
        )
    return [transport for transport in TRANSPORTS if transport in wanted]


def chunk_bytes(config: Config, offered: Sequence[str], largest_tensor: int) -> int:
    """The largest chunk of a publication that offers these transports."""
    wanted = config.chunk_bytes or max(_CHUNK_BYTES.values())
    most = [_CHUNK_BYTES[each] for each in offered if not config.chunk_bytes or each == "staged"]
    chosen = min([wanted, *most])
    if config.zero_copy and not config.chunk_bytes and list(offered) == ["host"]:  # uncut tensors can be aliased
        chosen = max(chosen, min(_UNCUT_BYTES, -(-largest_tensor // _core.BLOB_ALIGNMENT) * _core.BLOB_ALIGNMENT))
    return chosen


def to_try(config: Config, offered: Sequence[str], kind: DeviceKind) -> list[Candidate]:
    """Every transport that this load may use, in the order to try them, with the reason where one is left out."""
    candidates = []
    for transport in TRANSPORTS:
        why_not = None
        if config.transport not in ("auto", transport):
            why_not = f"transport={config.transport!r} is set"
        elif transport not in offered:
            why_not = "the publication does not offer it"
        elif not reaches(transport, kind):
            why_not = f"it moves no tensors {kind.where}"
        candidates.append(Candidate(transport, why_not))
    return candidates
