"""What a file of results says of the run that it is from."""

from __future__ import annotations

import datetime
import sys
from typing import Any

from yr_fastload_native.measuring.statistics import machine

__all__ = ["about"]


def about(module: str) -> dict[str, Any]:
    """Its command, date and machine.

    Args:
        module: That was run.
    """
    return {
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "machine": machine(),
    }
