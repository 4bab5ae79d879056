"""
What tests pass in where openYuanrong's worker would be.
"""

from __future__ import annotations
import collections.abc
import typing
import yr_fastload_native._core

__all__: list[str] = ["MemoryStore"]

class MemoryStore(yr_fastload_native._core.ObjectStore):
    """
    A store inside the process that does what a worker's store does, and fails on demand. Nobody else sees it.
    """
    def __init__(self) -> None: ...
    def advance(self, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Let this time pass for everything that has a TTL, at once.
        """
    def clear(self) -> None:
        """
        Forget everything, as a worker that was started anew.
        """
    def keys(self) -> list[str]:
        """
        All keys that hold something.
        """
    def set_faults(
        self,
        *,
        missing: collections.abc.Sequence[str] = [],
        corrupt: collections.abc.Sequence[str] = [],
        truncated: collections.abc.Sequence[str] = [],
        refuse_seal: collections.abc.Sequence[str] = [],
        unknown: collections.abc.Sequence[str] = [],
        no_copy: collections.abc.Sequence[str] = [],
        fetch_delay_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        fetch_bytes_per_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        fetch_call_s: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        refused_fetches: typing.SupportsInt | typing.SupportsIndex = 0,
        readable_bytes: typing.SupportsInt | typing.SupportsIndex = 18446744073709551615,
        capacity_bytes: typing.SupportsInt | typing.SupportsIndex = 18446744073709551615,
        unreachable: bool = False,
    ) -> None:
        """
        What goes wrong from now on, instead of what did. Of these keys a fetch finds none, one bit flipped, or the last byte gone, or their chunks are refused, or nobody knows whether they exist, or no other host finds a copy; every fetch takes longer, or as long as its bytes take, and is given up after a time; this many are refused; no more bytes fit that are being read, or that are stored; no call is answered.
        """
