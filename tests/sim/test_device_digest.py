"""Digests that a device computes of its own memory, by CANN's operators as they are simulated."""

from __future__ import annotations

import pytest

from yr_fastload_native.measuring.child_process import Process

from .nodes import simulated

ANSWER_S = 60
ROWS = 256  # that are multiplied at once
SIZES = {
    "one byte": [1],
    "a row and its neighbours": [8191, 8192, 8193, 1],
    "more than are multiplied at once": [ROWS * 8192 - 1, ROWS * 8192, ROWS * 8192 + 1, 3 * ROWS * 8192 + 77],
    "many small ones": [1 + i % 700 for i in range(3000)],
}


@pytest.fixture
def process():
    made = []

    def make(**environment):
        environment = simulated() | {"YR_FASTLOAD_SIM_OPAQUE": "1", **environment}
        made.append(Process("test", "device_digests", "device", None, environment))
        return made[-1]

    yield make
    for each in made:
        each.kill()
        each.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_they_are_those_of_the_cpu(process, threads):
    device = process()
    before = 0
    for name, sizes in SIZES.items():
        found = device.call("digests", ANSWER_S, sizes=sizes, chunk_bytes=1 << 20, threads=threads)
        assert found["equal"], name
        # One product a thread is of the rows that are compared first.
        assert found["products"] - before > min(threads, found["chunks"]), name
        assert (found["errors"], found["leased"]) == (0, 0)
        before = found["products"]


def test_small_tensors_share_a_product(process):
    found = process().call("digests", ANSWER_S, sizes=[100] * 2000, chunk_bytes=1 << 20, threads=1)
    assert (found["chunks"], found["products"]) == (40, 1 + -(-2000 // ROWS))


def test_a_device_whose_sums_are_wrong_is_not_asked(process):
    assert process().call("works", ANSWER_S) == {"works": True}
    damaged = process(YR_FASTLOAD_SIM_FAULTS="copy@2:corrupt=1")  # of the rows that are compared
    assert damaged.call("works", ANSWER_S) == {"works": False}
