"""``yr-fastload estimate``: how long a pull takes on other machines, from costs measured on one.

The model of a load by `d2d`:

    manifest + set-up + tensors * us + fan_out * bytes / rate + (levels - 1) * fan_out * chunk / rate + digest

``rate`` is the link's rate times the measured share of it. Readers form a tree in which each serves two others
(docs/design.md). So from the second reader on, two share a sender's link, and the last of n readers is floor(log2(n +
1)) levels below the publisher. Each level begins when it has its first chunk.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import attrs
import click
import msgspec

from yr_fastload_native.checkpoints.workloads import MODELS, sizes_of
from yr_fastload_native.cli import output
from yr_fastload_native.cli.estimate_costs import Costs
from yr_fastload_native.cli.estimate_hosts import WORKER_GB_PER_S, MachinesLoad
from yr_fastload_native.settings import Config
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.selection import chunk_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Costs", "Load", "estimate"]

_FAN_OUT = 2
_BITS = 8
_GIGA = 1e9
_PARAMETERS = re.compile(r"(\d+(?:\.\d+)?)([mbt])", re.IGNORECASE)
_UNITS = {"m": 1e6, "b": 1e9, "t": 1e12}
_TENSORS = 500  # per rank, if only the model's size is known: vLLM fuses projections and experts

# Seconds to set up a connection between two devices: openYuanrong's README, "P2P-Transfer".
_SETUP_S = {"hccl": 0.236, "p2p-transfer": 0.002}


@attrs.frozen(kw_only=True)
class Load:
    """A simultaneous load by every rank of some readers.

    Attributes:
        size: Bytes per rank.
        tensors: Number per rank.
        link_gbps: Gbit/s that a rank's link carries each way.
        setup_s: Seconds until two devices are connected.
    """

    size: float
    tensors: int
    link_gbps: float
    readers: int
    setup_s: float

    def stages(self, costs: Costs) -> dict[str, float]:
        """Seconds by stage until the last reader has everything."""
        rate = self.link_gbps * _GIGA / _BITS * costs.link_share
        sharing = min(self.readers, _FAN_OUT)
        levels = math.floor(math.log2(self.readers + 1))
        transfer = sharing * self.size / rate
        chunk = min(chunk_bytes(Config(), registry.named(["d2d"]), 0), self.size)
        return {
            "manifest": costs.manifest_s,
            "setup": self.setup_s,
            "tensors": self.tensors * costs.tensor_us / 1e6,
            "transfer": transfer,
            "levels": (levels - 1) * sharing * chunk / rate,
            "digest": self.size / rate * costs.digest_share,
        }


@attrs.frozen
class _Published:
    """A published measurement on real links."""

    system: str
    seconds: float
    size: float
    link_gbps: float
    source: str


_PUBLISHED = (
    _Published(
        "one key per parameter, Qwen2.5-7B, TP 2, HCCS",
        1.5,
        15.23e9 / 2,
        18.77 * _BITS,
        "openYuanrong's vLLM sample; rate of its README",
    ),
    _Published(
        "ModelExpress, Qwen2.5-7B", 15.23e9 / (211e9 / _BITS), 15.23e9, 400, "its docs/ARCHITECTURE.md: 211 Gbit/s"
    ),
    _Published("ModelExpress, DeepSeek-V3, TP 8", 15.0, 681e9 / 8, 400, "its docs/ARCHITECTURE.md: about 15 s"),
)


def _model(text: str, item_bytes: float) -> tuple[float, int | None]:
    """Bytes, and the number of tensors if known."""
    if text.lower() in MODELS:
        sizes = sizes_of(text.lower(), 1.0)
        return sum(sizes.values()) * item_bytes / 2, len(sizes)
    match = _PARAMETERS.fullmatch(text)
    if match is None:
        raise click.UsageError(f"--model {text}: use {', '.join(MODELS)}, or a number of parameters, such as 70b")
    return float(match[1]) * _UNITS[match[2].lower()] * item_bytes, None


@click.command()
@click.option(
    "--model", default="qwen2.5-7b", show_default=True, help=f"{', '.join(MODELS)}; or a number of parameters: 70b, 1t."
)
@click.option(
    "--item-bytes",
    type=click.FloatRange(0.25, 8),
    default=2,
    show_default=True,
    help="Bytes per parameter; bfloat16 has 2.",
)
@click.option("--tp", type=click.IntRange(1, 4096), default=1, show_default=True, help="Ranks that share the weights.")
@click.option(
    "--tensors",
    type=click.IntRange(1, 1 << 20),
    help=f"Tensors per rank.  [default: the model's, if known, or {_TENSORS}]",
)
@click.option(
    "--link-gbps",
    type=click.FloatRange(0, min_open=True),
    default=200,
    show_default=True,
    help="Gbit/s that a rank's link carries each way.",
)
@click.option(
    "--readers", type=click.IntRange(1, 1 << 16), default=1, show_default=True, help="Instances that start together."
)
@click.option(
    "--setup",
    type=click.Choice(list(_SETUP_S)),
    default="hccl",
    show_default=True,
    help="How devices connect: HCCL, or openYuanrong's P2P-Transfer.",
)
@click.option(
    "--disk-gb-per-s",
    type=click.FloatRange(0, min_open=True),
    default=3,
    show_default=True,
    help="Disk bandwidth of an instance, GB/s, for comparison.",
)
@click.option(
    "--machines",
    type=click.IntRange(0, 1 << 16),
    default=0,
    help="Machines of a cluster that read at once by `host`; --readers, --tp and --setup do not matter then.",
)
@click.option(
    "--worker-gb-per-s",
    type=click.FloatRange(0, min_open=True),
    default=WORKER_GB_PER_S,
    show_default=True,
    help="With --machines: what a worker takes from another at most, GB/s.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
def estimate(
    model: str,
    item_bytes: float,
    tp: int,
    tensors: int | None,
    link_gbps: float,
    readers: int,
    setup: str,
    disk_gb_per_s: float,
    machines: int,
    worker_gb_per_s: float,
    as_json: bool,
) -> None:
    """Estimate how long a pull takes on other links and models.

    The estimate uses costs measured by this project's benchmarks and the given bandwidths. Nothing is run.
    """
    costs = Costs.measured()
    total, known = _model(model, item_bytes)
    disk_s = total / (disk_gb_per_s * _GIGA)
    if machines:
        there = MachinesLoad(
            size=total,
            tensors=tensors or known or _TENSORS,
            machines=machines,
            link_gbps=link_gbps,
            worker_gb_per_s=worker_gb_per_s,
        )
        by_host = there.record(costs, model=model, bytes=total, disk_s=disk_s)
        output.emit(by_host, as_json=as_json, text=lambda: _machines_table(by_host))
        return
    load = Load(
        size=total / tp,
        tensors=tensors or known or _TENSORS,
        link_gbps=link_gbps,
        readers=readers,
        setup_s=_SETUP_S[setup],
    )
    stages = load.stages(costs)
    seconds = sum(stages.values())
    record = {
        "model": model,
        "bytes": total,
        "bytes_per_rank": load.size,
        "tensors": load.tensors,
        "tp": tp,
        "readers": readers,
        "link_gbps": link_gbps,
        "seconds": seconds,
        "stages": stages,
        "disk_s": disk_s,
        "speedup": disk_s / seconds,
        "publisher_sends_bytes": min(readers, _FAN_OUT) * total,
        "published": [_compare(each, costs) for each in _PUBLISHED],
        "costs": msgspec.to_builtins(costs),
        "assumptions": _assumptions(costs, setup, link_gbps, disk_gb_per_s),
    }
    output.emit(record, as_json=as_json, text=lambda: _table(record))


def _compare(published: _Published, costs: Costs) -> dict[str, Any]:
    load = Load(
        size=published.size,
        tensors=_TENSORS,
        link_gbps=published.link_gbps,
        readers=1,
        setup_s=_SETUP_S["hccl"],
    )
    return {
        "system": published.system,
        "published_s": published.seconds,
        "estimate_s": sum(load.stages(costs).values()),
        "link_gbps": published.link_gbps,
        "source": published.source,
    }


def _assumptions(costs: Costs, setup: str, link_gbps: float, disk_gb_per_s: float) -> list[str]:
    return [
        f"a rank's link carries {link_gbps:g} Gbit/s each way, ranks do not slow each other, and "
        f"{costs.link_share:.2f} of it is used: the share of a raw copy's rate that was measured between simulated "
        "devices, which copy with the CPU",
        f"connecting two devices takes {_SETUP_S[setup]:g} s ({setup}, from openYuanrong's README)",
        f"{costs.manifest_s * 1e3:.0f} ms for the manifest, {costs.tensor_us:.1f} us per tensor, and verifying adds "
        f"{costs.digest_share:.0%} to a transfer: measured on a CPU; an NPU computes digests itself",
        "with two or more readers, each serves two others; for eight readers, the publisher sent the model "
        f"{costs.sent_ratio:.2f} times when that was measured",
        f"the ranks of an instance share a disk of {disk_gb_per_s:g} GB/s that nobody else uses",
    ]


def _table(record: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    gigabytes = record["bytes_per_rank"] / _GIGA
    title = f"{record['model']}, TP {record['tp']}: {gigabytes:.1f} GB per rank, {record['readers']} readers"
    table = _stages(title, record)
    title = "published measurements, and this estimate for one reader with the same bytes and link"
    others = output.table(title, "", ">published s", ">estimate s", ">Gbit/s", "source")
    for row in record["published"]:
        figures = [f"{row[key]:.2f}" for key in ("published_s", "estimate_s")]
        others.add_row(row["system"], *figures, f"{row['link_gbps']:.0f}", row["source"])
    lines = [f"{record['speedup']:.1f} times as fast as the disk; the publisher sends "]
    lines[0] += f"{record['publisher_sends_bytes'] / _GIGA:.1f} GB"
    return Group(table, *lines, others, "assumptions:", *(f"- {each}" for each in record["assumptions"]))


def _stages(title: str, record: dict[str, Any]) -> Table:
    table = output.table(title, "", ">seconds")
    for stage, seconds in record["stages"].items():
        table.add_row(stage, f"{seconds:.3f}")
    table.add_row("all readers have their weights", f"{record['seconds']:.3f}", style="bold")
    table.add_row("from the disk", f"{record['disk_s']:.3f}")
    return table


def _machines_table(record: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    title = f"{record['model']}: {record['bytes'] / _GIGA:.1f} GB, {record['machines']} machines"
    return Group(_stages(title, record), "assumptions:", *(f"- {each}" for each in record["assumptions"]))
