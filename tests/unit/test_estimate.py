"""``yr-fastload estimate``: its formula, and that its costs are those of the committed run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from yr_fastload_native.checkpoints.workloads import sizes_of
from yr_fastload_native.cli import main
from yr_fastload_native.cli.estimate import Costs, Load

COSTS = Costs(
    link_share=0.5,
    manifest_s=0.01,
    tensor_us=2.0,
    digest_share=0.1,
    sent_ratio=2.0,
    command="none",
    machine={},
)
CHUNK = 128 << 20


def estimate(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["estimate", "--json", *options])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


def test_one_reader() -> None:
    stages = Load(size=1e9, tensors=1000, link_gbps=80, readers=1, setup_s=0.2).stages(COSTS)
    assert stages == pytest.approx(
        {"manifest": 0.01, "setup": 0.2, "tensors": 0.002, "transfer": 0.2, "levels": 0.0, "digest": 0.02}
    )


@pytest.mark.parametrize(("readers", "levels"), [(2, 1), (3, 2), (6, 2), (7, 3), (14, 3), (15, 4), (64, 6)])
def test_readers_form_a_tree(readers: int, levels: int) -> None:
    stages = Load(size=1e9, tensors=1, link_gbps=80, readers=readers, setup_s=0.0).stages(COSTS)
    assert stages["transfer"] == pytest.approx(0.4)
    assert stages["levels"] == pytest.approx((levels - 1) * 2 * CHUNK / 5e9)
    place = readers  # the last one; place n asks place (n - 1) / 2
    above = 0
    while place:
        place, above = (place - 1) // 2, above + 1
    assert above == levels


def test_models_and_ranks() -> None:
    real = sum(sizes_of("qwen2.5-7b", 1.0).values())
    assert estimate("--model", "Qwen2.5-7B")["bytes"] == real
    assert estimate("--model", "qwen2.5-7b", "--item-bytes", "1")["bytes"] == real / 2
    big = estimate("--model", "70b", "--tp", "8", "--link-gbps", "200", "--readers", "64")
    assert (big["bytes"], big["bytes_per_rank"]) == (140e9, 17.5e9)
    assert big["seconds"] == pytest.approx(math.fsum(big["stages"].values()))
    assert big["publisher_sends_bytes"] == 280e9
    assert all(row["published_s"] > 0 and row["estimate_s"] > 0 for row in big["published"])


def test_machines_that_read_at_once() -> None:
    """By `host`: the publisher sends 1 + 1/2 + ... models."""
    one = estimate("--model", "8b", "--machines", "1", "--link-gbps", "1")
    assert one["stages"]["transfer"] == pytest.approx(16e9 / (1e9 / 8 * 0.92))
    assert one["publisher_sends_bytes"] == 16e9
    three = estimate("--model", "8b", "--machines", "3", "--link-gbps", "1")
    assert three["stages"]["transfer"] / one["stages"]["transfer"] == pytest.approx(1 + 1 / 2 + 1 / 3)
    fast = estimate("--model", "8b", "--machines", "1", "--link-gbps", "400", "--worker-gb-per-s", "2")
    assert fast["stages"]["transfer"] == pytest.approx(8)
    done = CliRunner().invoke(main, ["estimate", "--machines", "3"])
    assert done.exit_code == 0
    assert "3 machines that begin at once" in done.output


def test_a_faster_link_and_fewer_bytes_are_sooner() -> None:
    seconds = [estimate("--model", "70b", "--link-gbps", gbps)["seconds"] for gbps in ("100", "200", "400")]
    assert seconds == sorted(seconds, reverse=True)
    assert estimate("--model", "7b")["seconds"] < estimate("--model", "14b")["seconds"]


def test_a_model_that_is_none() -> None:
    done = CliRunner().invoke(main, ["estimate", "--model", "large"])
    assert done.exit_code == 2
    assert "--model large: use qwen2.5-7b, qwen3-30b-a3b, or a number of parameters, such as 70b" in done.output


def test_people_get_tables_with_what_is_assumed() -> None:
    done = CliRunner().invoke(main, ["estimate", "--model", "70b", "--tp", "8"])
    assert done.exit_code == 0
    for text in ("all readers have their weights", "assumptions:", "ModelExpress", "a rank's link carries 200 Gbit/s"):
        assert text in done.output


def test_costs_are_those_of_the_committed_run() -> None:
    from benchmarks.costs import SECTIONS, costs_of

    results = Path(__file__).parents[2] / "benchmarks" / "results"
    records = {name: json.loads((results / f"{name}.json").read_text()) for name in SECTIONS}
    assert costs_of(records) == Costs.measured()
