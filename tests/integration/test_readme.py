"""The README's Python runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.worker

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs(worker: str) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 12
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        env={**os.environ, "DS_WORKER_ADDR": worker},
        check=True,
        timeout=60,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert re.fullmatch(r"4198400 bytes in \d+\.\d{3} s by host, verified: True\n", done.stdout)
