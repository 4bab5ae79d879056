"""``python -m yr_fastload_native.sim COMMAND...``: run it with simulated devices."""

from __future__ import annotations

import sys

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.sim.launcher import launch

if __name__ == "__main__":
    try:
        launch(sys.argv[1:])
    except FastLoadError as error:
        sys.exit(f"error: {error.code}: {error}")
