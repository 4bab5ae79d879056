"""Pictures of a run, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

__all__ = ["plot_all"]

_OURS, _OTHERS, _LIMITS = "#1f77b4", "#bbbbbb", "#2ca02c"
_GIB = 1 << 30


def _colour(name: str) -> str:
    if name.startswith("pull"):
        return _OURS
    return _LIMITS if name.startswith(("memcpy", "disk")) else _OTHERS


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        figure.savefig(f"{path}{suffix}", dpi=120)
    plt.close(figure)


def _systems(record: Mapping[str, Any], path: Path) -> None:
    """Median seconds of each system, from the fastest on; whiskers from the least to the most."""
    rows = sorted(record["seconds"].items(), key=lambda row: -row[1]["median"])
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(rows) + 1.2))
    values = [row["median"] for _, row in rows]
    spread = [[row["median"] - row["min"] for _, row in rows], [row["max"] - row["median"] for _, row in rows]]
    axes.barh([name for name, _ in rows], values, xerr=spread, color=[_colour(name) for name, _ in rows])
    axes.set_xscale("log")
    axes.set_xlabel("seconds (logarithmic), median and range")
    size, tensors = record["bytes"] / _GIB, record["tensors"]
    axes.set_title(f"{record['workload']}: {tensors} tensors, {size:.2f} GiB, {record['rounds']} rounds")
    _save(figure, path)


def _breakdown(record: Mapping[str, Any], path: Path) -> None:
    """When the stages of each kind of pull ran, from the first to the last of their spans."""
    kinds = list(record["breakdown"].items())
    figure, axes = plt.subplots(len(kinds), 1, figsize=(9, 1.5 * len(kinds) + 0.6), squeeze=False)
    for axis, (name, rows) in zip(axes[:, 0], kinds, strict=True):
        for place, row in enumerate(rows):
            axis.barh(place, (row["end_s"] - row["begin_s"]) * 1e3, left=row["begin_s"] * 1e3, color=_OURS)
        axis.set_yticks(range(len(rows)), [row["stage"] for row in rows])
        axis.invert_yaxis()
        axis.set_title(name, fontsize=9)
    axes[-1, 0].set_xlabel("ms since the call")
    _save(figure, path)


def _against_original(records: Mapping[str, Any], path: Path) -> None:
    rows = {name: record for name, record in records.items() if "baseline" in record}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, what in zip(axes, ("load", "publish"), strict=True):
        places = range(len(rows))
        axis.bar([p - 0.2 for p in places], [r["baseline"][f"{what}_s"] for r in rows.values()], 0.4, color=_OTHERS)
        axis.bar([p + 0.2 for p in places], [r[f"{what}_s"] for r in rows.values()], 0.4, color=_OURS)
        axis.set_xticks(list(places), list(rows))
        axis.set_yscale("log")
        axis.set_ylabel("seconds")
        axis.set_title(f"d2d, {what}: one key a parameter, and this")
    _save(figure, path)


def plot_all(records: Mapping[str, Any], folder: Path) -> None:
    """Make the pictures that the records of a run, by section, allow."""
    for workload, record in records.get("host", {}).items():
        _systems(record, folder / f"host-{workload}")
        _breakdown(record, folder / f"host-{workload}-stages")
    if any("baseline" in record for record in records.get("device", {}).values()):
        _against_original(records["device"], folder / "device-original")
