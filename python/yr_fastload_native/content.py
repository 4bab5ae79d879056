"""What weights are, said so that nobody can forge it: the SHA-256 of every tensor, and one digest over all of them.

The digest of chunks (``csrc/core/digest.hpp``) finds accidents and runs at the pace of memory; everybody can make other
bytes for it. SHA-256 costs about a second a GiB and core, so only those take it who ask for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.identity import Identity
from yr_fastload_native.sha256 import sums
from yr_fastload_native.tensors import Tensor, TensorTable

__all__ = ["check_trusted", "content_digest", "digest_of", "entries"]

_DOMAIN = "yr-fastload content 1"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Entry(Protocol):
    """What a digest says of a tensor beside its bytes; a manifest's `TensorEntry` has it too."""

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
    """The digest by which a reader can tell these weights from any others: what ``trusted_digests`` takes.

    Whoever has the right weights can take it, from a checkpoint for example; nothing is published and no worker is
    asked. `Publication.digest` is the same.

    Args:
        model: As in `FastLoader.publish`.
        identity: As it is published. Part of the digest: right weights under another identity are not these.
        threads: That hash, about a GiB a second each.

    Returns:
        64 hex digits: SHA-256 over the identity, and name, dtype, shape, strides, size, sharing and SHA-256 of every
        tensor in the order of names. When, by whom and in which chunks they are published makes no difference.

    Raises:
        InvalidArgumentError: A tensor cannot be moved, or the identity cannot be hashed.
        DeviceError: A tensor is where no transport can reach.
    """
    who = Identity.of(identity, op="content_digest")
    table = TensorTable(model, op="content_digest", writable=False, max_tensors=1 << 32)
    return digest_of(who, *entries(table), sums(table, threads, lambda: None))


def entries(table: TensorTable) -> tuple[list[Tensor], list[tuple[str, int] | None]]:
    """Tensors and what they share, as `digest_of` takes them."""
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
    """Content digests that a reader trusts: several, or one text with commas between them.

    Raises:
        InvalidArgumentError: There is none, or one is no content digest.
    """
    given = digests.split(",") if isinstance(digests, str) else list(digests)
    for digest in given:
        if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
            raise InvalidArgumentError(
                f"{digest!r} in trusted_digests is no content digest: 64 lower-case hex digits, as Publication.digest "
                "and content_digest give them",
                op=op,
            )
    if not given:
        raise InvalidArgumentError("trusted_digests is empty: nothing could be loaded; leave it away", op=op)
    return frozenset(given)
