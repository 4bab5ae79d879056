"""SHA-256 sums of files by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

__all__ = ["differing", "digest_of"]


def differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Names of files for which both sides know a sum, and the sums differ."""
    return sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])


def digest_of(sums: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of the names and their digests, in this order, hexadecimal."""
    return hashlib.sha256("".join(f"{len(name)}:{name}:{digest}\n" for name, digest in sums).encode()).hexdigest()
