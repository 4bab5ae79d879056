"""The costs that ``yr-fastload estimate`` uses, from the results of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from yr_fastload_native.cli.estimate import Costs

__all__ = ["SECTIONS", "costs_of", "write"]

SECTIONS = ("host", "device", "overhead", "scaling")

_FILE = Path(__file__).parents[1] / "python" / "yr_fastload_native" / "cli" / "measured.json"
_MODEL = "qwen2.5-7b"


def costs_of(records: Mapping[str, Any]) -> Costs:
    """The costs in the JSON files of a run, by section."""
    device = records["device"]["results"][_MODEL]
    stages = {row["stage"]: row for row in device["breakdown"]}
    fetch = stages["fetch"]
    raw_rate = device["bytes"] / device["raw_copy_s"]
    return Costs(
        link_share=device["bytes"] / (fetch["end_s"] - fetch["begin_s"]) / raw_rate,
        manifest_s=stages["manifest"]["seconds"],
        tensor_us=records["overhead"]["results"]["us_per_tensor"],
        digest_share=max(0.0, records["host"]["results"][_MODEL]["digest_share"]),
        sent_ratio=records["scaling"]["results"]["readers"][-1]["publisher_sent_ratio"],
        command=records["device"]["command"],
        machine=records["device"]["machine"],
    )


def write(results: Path) -> None:
    """Update the command's costs from a folder of results."""
    records = {name: msgspec.json.decode((results / f"{name}.json").read_bytes()) for name in SECTIONS}
    _FILE.write_bytes(msgspec.json.format(msgspec.json.encode(costs_of(records)), indent=1) + b"\n")
