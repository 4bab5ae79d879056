"""What ``python -m yr_fastload_native.collect_env`` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import yr_fastload_native as fl


def collected(**environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "yr_fastload_native.collect_env"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    return json.loads(done.stdout)


def test_versions_machine_and_settings() -> None:
    found = collected(YR_FASTLOAD_DEADLINE_S="7", DS_WORKER_ADDR="127.0.0.1:31501")
    assert found["distributions"]["yr-fastload-native"] == fl.__version__
    assert found["distributions"]["openyuanrong-datasystem"]
    assert found["machine"]["cores"] >= 1
    assert found["settings"]["deadline_s"] == 7
    assert found["settings"]["DS_WORKER_ADDR"] == "127.0.0.1:31501"
    assert found["devices"]["simulated"] is False


def test_what_cannot_be_read_says_why() -> None:
    assert "YR_FASTLOAD_DEADLINE_S='soon'" in collected(YR_FASTLOAD_DEADLINE_S="soon")["settings"]
