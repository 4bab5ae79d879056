"""``yr-fastload bench``: how fast a pull is, against memcpy and against the disk."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from yr_fastload_native.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["bench"]

_MIB = 1 << 20
_GIB = 1 << 30
# The source, its copy in the worker, one in plain shared memory, two destinations, one from the disk.
_COPIES = 6


@click.command()
@click.option("--transport", type=click.Choice(["host"]), default="host", show_default=True, help="How bytes move.")
@click.option("--size-mb", type=click.IntRange(1, 1 << 20), default=1024, show_default=True, help="Model size, MiB.")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=7, show_default=True, help="Repetitions; medians count."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
def bench(transport: str, size_mb: int, rounds: int, as_json: bool) -> None:
    """Measure loading from disk against pulling, with every byte checked.

    All figures come from one run and are taken in turn: the pull and a plain memcpy of the same bytes from shared
    memory, with the same number of threads, into memory that is fresh to the process and into memory it has touched;
    loading the checkpoint from disk with the page cache warm and dropped; and the fixed cost of 10,000 small tensors.
    """
    record = _run(size_mb, rounds)
    output.emit(record, as_json=as_json, text=lambda: _table(record))


def _run(size_mb: int, rounds: int) -> dict[str, Any]:
    from yr_fastload_native.cli.bench_host import measure_fixed_cost, measure_transfer
    from yr_fastload_native.cli.room import private_worker, require_memory
    from yr_fastload_native.config import Config
    from yr_fastload_native.synthetic import make_qwen2

    external = Config.worker_from_env()
    total = size_mb * _MIB
    require_memory(total, copies=_COPIES - bool(external), op="bench")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="yr-fastload-"))
        with output.progress_bar("making a checkpoint", total) as progress:
            model = make_qwen2(Path(scratch) / "qwen2", size_mb=size_mb, progress=progress)
        worker = external or stack.enter_context(private_worker(total))
        record = measure_transfer(worker, model, rounds, output.note)
        record["fixed_cost"] = measure_fixed_cost(worker, rounds)
    return {**record, "machine": _machine()}


def _machine() -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    names = ("yr-fastload-native", "openyuanrong-datasystem", "torch", "safetensors", "numpy")
    return {
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in names},
    }


def _table(record: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    size = record["bytes"] / _GIB
    table = Table(
        title=f"{record['tensors']} tensors, {size:.2f} GiB, {record['copy_threads']} threads, "
        f"medians of {record['rounds']} rounds"
    )
    for heading in ("", "seconds", "GiB/s"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "pull into touched memory": "load_touched",
        "memcpy into touched memory": "memcpy_touched",
        "pull into fresh memory": "load_fresh",
        "memcpy into fresh memory": "memcpy_fresh",
        "disk, page cache warm": "disk_warm",
        "disk, page cache dropped": "disk_cold",
    }
    for name, key in rows.items():
        seconds = record["seconds"][key]["median"]
        table.add_row(name, f"{seconds:.3f}", f"{size / seconds:.2f}")
    table.add_row("publish", f"{record['publish_s']:.3f}", f"{size / record['publish_s']:.2f}")
    fixed = record["fixed_cost"]
    return Group(
        table,
        f"share of memcpy: {record['memcpy_share_touched']:.2f} touched, {record['memcpy_share_fresh']:.2f} fresh",
        f"against {record['disk_reader']}: {record['speedup_cold']:.1f}x cold, {record['speedup_warm']:.1f}x warm",
        f"{fixed['tensors']} tensors of {fixed['tensor_bytes']} bytes: plan {fixed['plan_s'] * 1e3:.1f} ms, "
        f"publish {fixed['publish_s']:.3f} s, pull {fixed['load_s']:.3f} s",
        "verified: yes, every byte",
    )
