"""A store for tests: ``FastLoader(store=MemoryStore())`` needs no openYuanrong worker.

Loaders of one process that are given the same store publish for each other, as processes of one machine do.
"""

from __future__ import annotations

from yr_fastload_native._core.testing import MemoryStore

__all__ = ["MemoryStore"]
