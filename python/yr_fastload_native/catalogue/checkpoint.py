"""What a published checkpoint is in the catalogue: its identity, and the entries beside its tensors.

A checkpoint is what its files hold, under the names that it has there and unsharded, so its identity is the fingerprint
of the files alone: every engine, version and parallel layout reads the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yr_fastload_native.catalogue.identity import ABOUT

__all__ = ["FILE", "HEADER", "KIND", "compared_in", "identity_of", "is_checkpoint", "is_tensor", "pool_of"]

KIND = "checkpoint"
HEADER = "__header__/"  # and a file's name: its bytes before those of the first tensor
FILE = "__file__/"  # and a file's name: all its bytes
_COMPARED_IN = "compared_in"


def identity_of(fingerprint: str, *, model: str, pool: str) -> dict[str, Any]:
    """The identity of a checkpoint.

    Args:
        fingerprint: Of its files.
        model: Its name, for people.
        pool: Where its chunks were compared with their digests once they were stored; see `pool_of`.
    """
    return {"kind": KIND, "files": fingerprint, ABOUT: {"model": model, _COMPARED_IN: pool}}


def is_checkpoint(fields: Mapping[str, Any]) -> bool:
    return fields.get("kind") == KIND


def is_tensor(name: str) -> bool:
    """Whether an entry is one of the checkpoint's tensors, and not something of its files."""
    return not name.startswith((HEADER, FILE))


def compared_in(fields: Mapping[str, Any]) -> str:
    """The pool in which a publication's chunks were compared with their digests; empty if it does not say."""
    about = fields.get(ABOUT)
    found = about.get(_COMPARED_IN) if isinstance(about, dict) else None
    return found if isinstance(found, str) else ""


def pool_of(worker: str) -> str:
    """The shared memory of a worker as this machine has it; it holds no copies of what another pool holds.

    Args:
        worker: Address of the worker.
    """
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{worker}"
