"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")


def wait_until(condition: Callable[[], _Answer], timeout_s: float = 20) -> _Answer:
    """What `condition` answered last: something true, or whatever it is when time is up."""
    end = time.monotonic() + timeout_s
    while not (answer := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return answer
