"""Of processes that start together on an empty cluster one reads the disk, and the others wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

import yr_fastload_native as fl

pytestmark = pytest.mark.worker

# A process that takes the turn, says so, and neither publishes nor releases it.
CLAIMS = """
import sys, json, time
import yr_fastload_native as fl
loader = fl.FastLoader(fl.Config(worker=sys.argv[1], lease_s=2))
try:
    loader.wait_for_publisher(json.loads(sys.argv[2]), timeout_s=1)
except fl.NotPublishedError:
    print("mine", flush=True)
time.sleep(60)
"""


def test_a_dead_one_hands_over_within_its_lease(worker: str, identity: dict[str, str], loader: fl.FastLoader) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLAIMS, worker, json.dumps(identity)], stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "mine\n"
            started = time.monotonic()
            with pytest.raises(fl.NotPublishedError, match="nor did the process that reads it within 3 s"):
                loader.wait_for_publisher(identity, timeout_s=3)  # longer than its lease: it is renewed
            assert 3 <= time.monotonic() - started < 6
        finally:
            first.kill()
    started = time.monotonic()
    with pytest.raises(fl.NotPublishedError, match="others wait for it"):
        loader.wait_for_publisher(identity, timeout_s=30)
    assert time.monotonic() - started < 6  # its lease of 2 s, and a moment
