"""What `yr-fastload estimate --machines` says, compared with what it takes."""

from __future__ import annotations

import uuid

import pytest
from chaos.hosts.bed import ANSWER_S, Bed

from yr_fastload_native.cli.estimate_costs import Costs
from yr_fastload_native.cli.estimate_hosts import MachinesLoad

pytestmark = [pytest.mark.worker, pytest.mark.long]

MIB = 1 << 20
MODEL_MB, TENSOR_MB = 128, 8
LINK_MBIT = 200


@pytest.mark.parametrize("machines", [1, 3])
def test_it_is_right_within_a_fifth(hosts_can_be_made: None, machines: int) -> None:
    load = MachinesLoad(
        size=MODEL_MB * MIB, tensors=MODEL_MB // TENSOR_MB, machines=machines, link_gbps=LINK_MBIT / 1000
    )
    estimated_s = sum(load.stages(Costs.measured()).values())
    with Bed(1 + machines) as bed:
        bed.start_workers(2 * MODEL_MB)
        source, *guests = [host.guest() for host in bed.hosts]
        wanted = {"model": uuid.uuid4().hex, "size_mb": MODEL_MB}
        assert "error" not in source.call("publish", ANSWER_S, **wanted, chunk_bytes=4 * MIB)
        for guest in guests:
            guest.call("exist", ANSWER_S, keys=["none"])  # it is there
        for host in bed.hosts:
            host.limit(LINK_MBIT)
        for guest in guests:
            guest.start("load", **wanted, deadline_s=80.0)
        answers = [guest.finish(ANSWER_S) for guest in guests]
    assert all(answer.get("equal") for answer in answers), answers
    took_s = max(answer["seconds"] for answer in answers)
    assert 0.8 < estimated_s / took_s < 1.2, (estimated_s, took_s)
