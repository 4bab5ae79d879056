"""Tensors, loaders, processes that end at a bad moment: no crash, no hang, and nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native import sim

from ..waiting import wait_until
from .nodes import STAND_INS

pytestmark = pytest.mark.worker

LIVES = Path(__file__).with_name("lives.py")
# Kind of device, by what tensors move, and whether they are where the CPU reaches them: torch's, which can be given
# other memory, or arrays in device memory, as on real devices.
WAYS = {
    "host": ("ascend", "host", STAND_INS),
    "staged": ("ascend", "staged", {}),
    "d2d": ("ascend", "d2d", {}),
    "staged, torch": ("ascend", "staged", STAND_INS),
    "d2d, torch": ("ascend", "d2d", STAND_INS),
    "cuda, host": ("cuda", "host", {}),
    "cuda, d2d": ("cuda", "d2d", {}),
}
STATUS = {"exits_by_an_exception_during_a_load": 5}
SMALL_CHUNKS = {"chunk_bytes": 1 << 20, "hold": False}
# Whoever reads a GPU's memory is another process: none can open its own.
IN_ONE_PROCESS = {"drops_tensors_of_a_publication", "closes_a_publication_that_is_read"}


def live(worker, model, way, what):
    """Runs one of `lives.py`; its status is its own, and its standard error tells of no crash."""
    kind, transport, environment = way
    command = [sys.executable, "-X", "faulthandler", str(LIVES), worker, model, transport, what]
    environment = sim.environment(kind=kind) | {"YR_FASTLOAD_SIM_OPAQUE": "1", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == STATUS.get(what, 0), done.stderr[-4000:]
    for word in ("Fatal Python error", "terminate called", "Sanitizer", "use after free"):
        assert word not in done.stderr, done.stderr[-4000:]


@pytest.fixture
def source(node, model, way):
    """Publishes, at a speed that leaves time for something to happen."""
    made = node("source", YR_FASTLOAD_SIM_LINK_GBPS="0.1")
    made.call("publish", model=model, settings={**SMALL_CHUNKS, "publish_as": way[1]})
    return made


def by_some_ways(lives):
    """Each life by these, and by the others where there is time."""
    return pytest.mark.parametrize(
        ("kind", "way", "what"),
        [
            pytest.param(way[0], way, what, id=f"{what}-{name}", marks=() if name in soon else pytest.mark.long)
            for what, soon in lives.items()
            for name, way in WAYS.items()
            if name != "cuda, d2d" or what not in IN_ONE_PROCESS
        ],
        indirect=["kind"],
    )


READERS = {
    "drops_tensors_of_a_load": ["d2d"],
    "closes_a_loader_during_a_load": ["staged", "cuda, d2d"],
    "exits_during_a_load": ["host", "cuda, host"],
    "exits_by_an_exception_during_a_load": ["d2d"],
    "exits_after_a_load_that_serves_others": ["d2d"],
}


@by_some_ways(READERS)
def test_readers(worker, source, model, kind, way, what):
    live(worker, model, way, what)
    assert source.call("states") == {"states": ["live"]}


PUBLISHERS = {
    "drops_tensors_of_a_publication": ["d2d"],
    "closes_a_loader_during_a_publish": ["host"],
    "closes_a_publication_that_is_read": ["d2d"],
    "exits_during_a_publish": ["staged"],
    "exits_with_an_open_publication": ["d2d", "cuda, d2d"],
}


@by_some_ways(PUBLISHERS)
def test_publishers(worker, model, kind, way, what):
    live(worker, model, way, what)
    with fl.FastLoader(fl.Config(worker=worker)) as guest:
        # Within its lease, where it had no time to say goodbye.
        assert wait_until(lambda: not guest.is_published({"model": model}), 15)
