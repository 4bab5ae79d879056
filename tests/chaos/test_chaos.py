"""The fault campaign in short, and that it is what it says: reproducible, and fair to every kind of fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the campaign's modules are scripts beside this

SHORT_ROUNDS = 30
LONG_ROUNDS = 300
SANITIZED = any(name in os.environ.get("LD_PRELOAD", "") for name in ("asan", "tsan"))


@pytest.mark.worker
@pytest.mark.timeout(280)
@pytest.mark.skipif(SANITIZED, reason="bounds of time and memory are those of a build without sanitizers")
def test_a_short_campaign():
    command = [sys.executable, str(HERE / "campaign.py"), "--seed", "7", "--rounds", str(SHORT_ROUNDS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    found = result["wrong_bytes"], result["stalls"], result["leaks"], result["unexpected"]
    assert (done.returncode, found) == (0, (0, 0, 0, 0)), done.stdout
    assert result["rounds"] == SHORT_ROUNDS
    assert min(result["faults"].values()) >= 1
    assert result["bytes_verified"] > 10 << 20
    assert result["keys_checked"] > 1000
    assert list(result)[-6:] == ["rounds", "faults", "bytes_verified", "wrong_bytes", "stalls", "leaks"]


def test_every_kind_is_drawn_as_often():
    import schedule
    from faults import KINDS

    assert len(KINDS) <= SHORT_ROUNDS
    for seed in range(20):
        drawn = Counter(schedule.kind_of(seed, number, list(KINDS)) for number in range(LONG_ROUNDS))
        assert set(drawn) == set(KINDS)
        assert min(drawn.values()) >= 10


def test_a_round_is_the_same_whenever_it_is_drawn():
    import schedule
    from faults import KINDS

    def drawn(seed, number):
        kind = schedule.kind_of(seed, number, list(KINDS))
        spec = schedule.draw(seed, number, kind, KINDS[kind].transports)
        fault = KINDS[kind](spec)
        return spec.told(), fault.told

    assert [drawn(3, number) for number in range(60)] == [drawn(3, number) for number in range(60)]
    assert drawn(3, 5) != drawn(4, 5)


def test_models_are_what_their_seeds_say():
    from models import Model

    for framework in ("torch", "numpy"):
        for structure in range(30):
            source, target = Model(structure, 1 << 18, framework, 5), Model(structure, 1 << 18, framework, None)
            assert source.differing(5) == 0 == target.differing(None)
            assert source.differing(6) > 0.9 * source.nbytes
            source.overwrite(6, seen=structure % 2 == 0)
            assert source.differing(6) == 0
            assert {name: tensor.shape for name, tensor in source.tensors.items()} == {
                name: tensor.shape for name, tensor in target.tensors.items()
            }
