"""Plots of a run, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from yr_fastload_native.vllm.phases import PHASES

__all__ = ["plot_all"]

_OURS, _OTHERS, _LIMITS = "#1f77b4", "#bbbbbb", "#2ca02c"
_OF_PHASES = plt.colormaps["tab20"]
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
    """Median seconds of each system, fastest first; whiskers from minimum to maximum."""
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


def _scaling(record: Mapping[str, Any], path: Path) -> None:
    """Seconds by readers, bytes, tensors and chunk size."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    readers, sizes, tensors, chunks = axes[0, 0], axes[0, 1], axes[1, 0], axes[1, 1]
    counts = [row["readers"] for row in record["readers"]]
    readers.plot(counts, [row["publisher_sent_ratio"] for row in record["readers"]], "o-", color=_OURS)
    readers.plot(counts, counts, "--", color=_OTHERS, label="if nobody served others")
    readers.set(title="d2d: what the publisher sends", xlabel="readers that start together", ylabel="times the model")
    readers.legend()
    gib = [row["gib"] for row in record["host_size"]]
    sizes.plot(gib, [row["seconds"]["median"] for row in record["host_size"]], "o-", color=_OURS, label="host")
    sizes.plot(gib, [row["load_s"] for row in record["d2d_size"]], "s-", color=_OURS, label="d2d")
    sizes.plot(gib, [row["raw_copy_s"] for row in record["d2d_size"]], "--", color=_LIMITS, label="one raw copy")
    sizes.set(title="a load", xlabel="GiB", ylabel="seconds")
    sizes.legend()
    tensors.plot([row["tensors"] for row in record["tensors"]], [row["us"]["pull"] for row in record["tensors"]], "o-")
    tensors.set(title="host: tensors of 64 bytes", xlabel="tensors", ylabel="us a tensor", xscale="log", ylim=(0, None))
    for label, rows in (("host", record["host_chunk"]), ("d2d", record["d2d_chunk"])):
        seconds = [row["seconds"]["median"] if "seconds" in row else row["load_s"] for row in rows]
        chunks.plot([row["chunk_bytes"] / (1 << 20) for row in rows], seconds, "o-", label=label)
    chunks.set(title="a load, by the size of its chunks", xlabel="MiB", ylabel="seconds", ylim=(0, None))
    chunks.set_xscale("log", base=2)
    chunks.legend()
    _save(figure, path)


def _starts(record: Mapping[str, Any], path: Path) -> None:
    """The first instance of a model and one more, phase by phase from launch to ready."""
    first, more = record["begun"]["large"], record["records"]["large"]["template"]
    second = sorted(more, key=lambda each: float(each["ready_s"]))[len(more) // 2]
    figure, axes = plt.subplots(figsize=(9, 2.9))
    for place, start in enumerate((first, second)):
        begin = 0.0
        for phase in start["phases"]:
            number = PHASES.index(phase["name"])
            axes.barh(
                place,
                phase["seconds"],
                left=begin,
                height=0.6,
                color=_OF_PHASES(number % _OF_PHASES.N),
                label=phase["name"] if start is first else None,
            )
            begin += phase["seconds"]
        axes.text(begin, place, f" {begin:.1f} s", va="center", fontsize=11, fontweight="bold")
    axes.set_yticks((0, 1), ("first instance", "one more"))
    axes.invert_yaxis()
    axes.set_xlim(0, first["ready_s"] * 1.12)
    axes.set_xlabel(f"seconds from launch to ready; a model of {second['bytes'] / 1e9:.1f} GB, vLLM on a CPU")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(ncols=6, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.45, 1.0))
    _save(figure, path)


def plot_all(records: Mapping[str, Any], folder: Path) -> None:
    """Draw the plots that the records of a run, by section, allow."""
    for workload, record in records.get("host", {}).items():
        _systems(record, folder / f"host-{workload}")
        _breakdown(record, folder / f"host-{workload}-stages")
    if any("baseline" in record for record in records.get("device", {}).values()):
        _against_original(records["device"], folder / "device-original")
    if "ready" in records:
        _starts(records["ready"], folder / "ready")
    if "scaling" in records:
        _scaling(records["scaling"], folder / "scaling")


def main() -> None:
    """All pictures anew, of the results that are there."""
    folder = Path(__file__).with_name("results")
    files = {path.stem: path for path in folder.glob("*.json")}
    plot_all({name: json.loads(path.read_text()).get("results", {}) for name, path in files.items()}, folder)


if __name__ == "__main__":
    main()
