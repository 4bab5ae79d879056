"""Tensors, loaders, processes that end at a bad moment: no crash, no hang, and nothing is left of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native import sim

from ..waiting import wait_until
from .kinds import KINDS_AND_TRANSPORTS

pytestmark = pytest.mark.worker

LIVES = Path(__file__).with_name("lives.py")
STATUS = {"exits_by_an_exception_during_a_load": 5}
SMALL_CHUNKS = {"chunk_bytes": 1 << 20, "hold": False}


# Of a GPU's, which take as long and mostly end in the same code, some; the rest later.
_SOON = {"closes_a_loader_during_a_load", "exits_during_a_load", "exits_with_an_open_publication"}
# Whoever reads is another process there: none can open its own memory.
_IN_ONE_PROCESS = {"drops_tensors_of_a_publication", "closes_a_publication_that_is_read"}


def lives(names):
    """(kind, transport, what happens)."""
    return [
        pytest.param(kind, transport, what, marks=() if kind == "ascend" or what in _SOON else pytest.mark.long)
        for kind, transport in KINDS_AND_TRANSPORTS
        for what in names
        if (kind, transport) != ("cuda", "d2d") or what not in _IN_ONE_PROCESS
    ]


def live(worker, model, kind, transport, what):
    """Runs one of `lives.py`; its status is its own, and its standard error tells of no crash."""
    command = [sys.executable, "-X", "faulthandler", str(LIVES), worker, model, transport, what]
    environment = sim.environment(kind=kind) | ({"YR_FASTLOAD_SIM_OPAQUE": "1"} if kind == "cuda" else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == STATUS.get(what, 0), done.stderr[-4000:]
    for word in ("Fatal Python error", "terminate called", "Sanitizer"):
        assert word not in done.stderr, done.stderr[-4000:]


@pytest.fixture
def source(node, model, transport):
    """Publishes, at a speed that leaves time for something to happen."""
    made = node("source", YR_FASTLOAD_SIM_LINK_GBPS="0.1")
    made.call("publish", model=model, settings={**SMALL_CHUNKS, "publish_as": transport})
    return made


READERS = [
    "drops_tensors_of_a_load",
    "closes_a_loader_during_a_load",
    "exits_during_a_load",
    "exits_by_an_exception_during_a_load",
    "exits_after_a_load_that_serves_others",
]


@pytest.mark.parametrize(("kind", "transport", "what"), lives(READERS), indirect=["kind"])
def test_readers(worker, source, model, kind, transport, what):
    live(worker, model, kind, transport, what)
    assert source.call("states") == {"states": ["live"]}


PUBLISHERS = [
    "drops_tensors_of_a_publication",
    "closes_a_loader_during_a_publish",
    "closes_a_publication_that_is_read",
    "exits_during_a_publish",
    "exits_with_an_open_publication",
]


@pytest.mark.parametrize(("kind", "transport", "what"), lives(PUBLISHERS), indirect=["kind"])
def test_publishers(worker, model, kind, transport, what):
    live(worker, model, kind, transport, what)
    with fl.FastLoader(fl.Config(worker=worker)) as guest:
        # Within its lease, where it had no time to say goodbye.
        assert wait_until(lambda: not guest.is_published({"model": model}), 15)
