"""How a process comes to be on a host."""

from __future__ import annotations

import ctypes
import os

__all__ = ["move_to"]

_CLONE_NEWNET = 0x40000000


def move_to(namespace: str) -> None:
    """Have this thread, and all that it starts, be in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(descriptor)
