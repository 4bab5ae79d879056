"""Identifies weights so that nobody can forge them: the SHA-256 of every tensor, and one digest over all of them.

The digest of chunks (``csrc/core/digest.hpp``) detects accidents and runs at memory speed, but anyone can construct
other bytes for it. SHA-256 costs about a second per GiB and core, so it is only computed on request.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.weights.sha256 import sums
from yr_fastload_native.weights.tensor_reader import Tensor
from yr_fastload_native.weights.tensor_table import TensorTable

__all__ = ["check_trusted", "content_digest", "digest_of", "entries"]

_DOMAIN = "yr-fastload content 1"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Entry(Protocol):
    """What a content digest covers of a tensor besides its bytes; a manifest's `TensorEntry` has the same fields."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def strides(self) -> Sequence[int]: ...
    @property
    def bytes(self) -> int: ...


def content_digest(model: Any, identity: Mapping[str, Any], *, threads: int = 2) -> str:
    """The digest that distinguishes these weights from all others, for ``trusted_digests``.

    It can be computed from the right weights, for example from a checkpoint, without publishing and without a worker.
    `Publication.digest` is the same.

    Args:
        model: As in `FastLoader.publish`.
        identity: As published. It is part of the digest: the same weights under another identity do not match.
        threads: Number of threads that hash, about 1 GiB/s each.

    Returns:
        64 hex digits: SHA-256 over the identity, and name, dtype, shape, strides, size, sharing and SHA-256 of every
        tensor in the order of names. It does not depend on when, by whom and in which chunks they are published.

    Raises:
        InvalidArgumentError: A tensor cannot be moved, or the identity cannot be hashed.
        DeviceError: No transport can reach a tensor's memory.
    """
    who = Identity.of(identity, op="content_digest")
    table = TensorTable(model, op="content_digest", writable=False, max_tensors=1 << 32)
    return digest_of(who, *entries(table), sums(table, threads, lambda: None))


def entries(table: TensorTable) -> tuple[list[Tensor], list[tuple[str, int] | None]]:
    """Tensors and their sharing, for `digest_of`."""
    return table.tensors, [table.alias(index) for index in range(len(table.tensors))]


def digest_of(
    who: Identity,
    tensors: Sequence[_Entry],
    aliases: Sequence[tuple[str, int] | None],
    sha256: Sequence[str],
) -> str:
    """The content digest of tensors whose sums are known; see `content_digest`."""
    described = sorted(
        [t.name, t.dtype, list(t.shape), list(t.strides), t.bytes, list(alias) if alias else None, of_bytes]
        for t, alias, of_bytes in zip(tensors, aliases, sha256, strict=True)
    )
    text = json.dumps([_DOMAIN, who.digest, described], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def check_trusted(digests: str | Iterable[str], *, op: str) -> frozenset[str]:
    """Check the content digests that a reader trusts: several, or one string with commas.

    Raises:
        InvalidArgumentError: There are none, or one is not a content digest.
    """
    given = digests.split(",") if isinstance(digests, str) else list(digests)
    for digest in given:
        if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
            raise InvalidArgumentError(
                f"{digest!r} in trusted_digests is not a content digest, which has 64 lower-case hex digits; use "
                "Publication.digest or content_digest",
                op=op,
            )
    if not given:
        raise InvalidArgumentError("trusted_digests is empty, so nothing could be loaded; omit it", op=op)
    return frozenset(given)
