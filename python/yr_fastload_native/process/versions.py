"""Versions of what is installed."""

from __future__ import annotations

import importlib.metadata

__all__ = ["installed"]


def installed(name: str) -> str | None:
    """The version of a distribution; None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
