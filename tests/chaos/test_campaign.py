"""The fault campaign in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.faults import KINDS
from chaos.hosts.namespaces import why_no_etcd, why_not

ROOT = Path(__file__).parents[2]
SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("asan", "tsan"))


@pytest.mark.worker
@pytest.mark.timeout(280)
@pytest.mark.skipif(SANITIZED, reason="bounds of time and memory are those of a build without sanitizers")
@pytest.mark.parametrize("rounds", [12, pytest.param(len(KINDS), marks=pytest.mark.long)])
def test_a_short_campaign(rounds):
    command = [sys.executable, "-m", "chaos", "--seed", "7", "--rounds", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    result = json.loads(done.stdout.splitlines()[-1])
    found = result["wrong_bytes"], result["stalls"], result["leaks"], result["unexpected"]
    assert (done.returncode, found) == (0, (0, 0, 0, 0)), done.stdout
    assert (result["rounds"], sum(result["faults"].values())) == (rounds, rounds)
    assert max(result["faults"].values()) == 1
    assert result["bytes_verified"] > 10 << 20
    assert result["keys_checked"] > 20 * rounds
    assert list(result)[-6:] == ["rounds", "faults", "bytes_verified", "wrong_bytes", "stalls", "leaks"]


@pytest.mark.long
@pytest.mark.worker
@pytest.mark.timeout(280)
@pytest.mark.skipif(SANITIZED, reason="bounds of time and memory are those of a build without sanitizers")
@pytest.mark.skipif(bool(why_no_etcd()), reason=why_no_etcd())
def test_a_short_campaign_on_hosts():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    kinds = [f"--kind={kind}" for kind in ("host.killed", "worker.sigkill")]
    command = [sys.executable, "-m", "chaos.hosts", "--seed", "7", "--rounds", "2", *kinds]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    result = json.loads(done.stdout.splitlines()[-1])
    found = [result[name] for name in ("wrong_bytes", "stalls", "leaks", "unexpected", "lost")]
    assert (done.returncode, found) == (0, [0] * 5), done.stdout
    assert result["faults"] == {"host.killed": 1, "worker.sigkill": 1}
    assert result["bytes_verified"] > 0
    assert result["keys_checked"] > 100
