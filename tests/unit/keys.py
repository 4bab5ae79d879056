"""What a store holds."""

from __future__ import annotations

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.testing import MemoryStore

from ..waiting import wait_until


def keys_with(store: MemoryStore, part: str) -> list[str]:
    """Keys that hold something and have this in their name."""
    held = store.keys()
    return [key for key in held if part in key]


def wait_renewed(store: MemoryStore, who: Identity) -> None:
    """Until the source has renewed for the first time, which it does at once; next in a third of its lease.

    One that finds another head withdraws what it has published.
    """
    assert wait_until(lambda: any(store.exist(who.entry_keys, deadline_s=1)))
