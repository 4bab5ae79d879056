"""``yr-fastload bench``: the speed of a pull, compared with memcpy and with the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from yr_fastload_native.checkpoints.workloads import DEFAULT_SCALES
from yr_fastload_native.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["bench"]

_MIB = 1 << 20
_GIB = 1 << 30
# The source, its copy in the worker, one in plain shared memory, two destinations, and one from disk.
_COPIES = 6
_DEFAULT_MB = 1024


@click.command()
@click.option(
    "--transport",
    type=click.Choice(["host", "d2d", "staged"]),
    default="host",
    show_default=True,
    help="How bytes move. d2d and staged move them between NPUs, simulated ones if there are none.",
)
@click.option("--size-mb", type=click.IntRange(1, 1 << 20), help=f"host: model size, MiB.  [default: {_DEFAULT_MB}]")
@click.option(
    "--shapes",
    type=click.Choice(list(DEFAULT_SCALES)),
    help="d2d, staged: tensors of Qwen2.5-7B or Qwen3-30B-A3B, scaled; huge: one of 1 GiB; small: 5,000 of 4 to "
    "64 KiB; tiny: 10,000 of 4 KiB.  [default: qwen2.5-7b]",
)
@click.option(
    "--scale",
    type=click.FloatRange(0, 1, min_open=True),
    help="d2d, staged: size relative to the real one.  [default: "
    + ", ".join(f"{scale:g} of {name}" for name, scale in DEFAULT_SCALES.items())
    + "]",
)
@click.option(
    "--baseline",
    type=click.Choice(["none", "per-parameter"]),
    help="d2d: compare with one key per parameter, as in openYuanrong's sample.  [default: none]",
)
@click.option(
    "--readers",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    help="d2d: finally start this many readers together, and measure what the publisher sends.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=7, show_default=True, help="Repetitions; results are medians."
)
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a trace of a pull, thread by thread, for https://ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
def bench(
    transport: str,
    size_mb: int | None,
    shapes: str | None,
    scale: float | None,
    baseline: str | None,
    readers: int,
    rounds: int,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Measure pulls against plain copies of the same bytes, with every byte checked.

    All figures come from one run, with the systems taking turns.

    host: the pull, and a plain memcpy of the same bytes from shared memory with as many threads, each into new memory
    and into memory that was touched before; loading the checkpoint from disk with the page cache warm and dropped; and
    the fixed cost of 10,000 small tensors.

    d2d and staged: the pull and one process_vm_readv of the same bytes; with --baseline also one key per parameter
    through openYuanrong's own client.
    """
    on_devices = transport != "host"
    wrong = {
        "--size-mb": size_mb is not None and on_devices,
        "--shapes": shapes is not None and not on_devices,
        "--scale": scale is not None and not on_devices,
        "--baseline": baseline not in (None, "none") and transport != "d2d",
        "--readers": readers > 0 and transport != "d2d",
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            raise click.UsageError(f"{option} cannot be used with --transport {transport}")
    if on_devices:
        shapes = shapes or "qwen2.5-7b"
        scale = scale or DEFAULT_SCALES[shapes]
        record = _run_devices(transport, shapes, scale, baseline == "per-parameter", readers, rounds, trace)
        output.emit(record, as_json=as_json, text=lambda: _device_table(record))
    else:
        record = _run(size_mb or _DEFAULT_MB, rounds, trace)
        output.emit(record, as_json=as_json, text=lambda: _table(record))


def _run_devices(
    transport: str, shapes: str, scale: float, baseline: bool, readers: int, rounds: int, trace: Path | None
) -> dict[str, Any]:
    from yr_fastload_native.measuring.device import measure
    from yr_fastload_native.measuring.device_process import Plan
    from yr_fastload_native.measuring.resources import device_environment, private_worker, require_memory
    from yr_fastload_native.measuring.statistics import machine
    from yr_fastload_native.settings import Config

    external = Config.worker_from_env()
    plan = Plan(worker="", transport=transport, shapes=shapes, scale=scale, deadline_s=120.0)
    total = sum(plan.sizes().values())
    # One of the source, two of each reader (what it loads and what it compares with); staged adds one in the worker.
    require_memory(total, copies=3 + 2 * readers + (transport == "staged"), op="bench")
    environment, simulated = device_environment(transport)
    if simulated:
        output.note("no NPU here: using simulated ones")
    with contextlib.ExitStack() as stack:
        room = total if transport == "staged" else 0
        plan = plan.at(external or stack.enter_context(private_worker(3 * room, output.note)))
        record = measure(
            plan, rounds, baseline=baseline, readers=readers, environment=environment, note=output.note, trace=trace
        )
    return {**record, "shapes": shapes, "scale": scale, "simulated": simulated, "machine": machine()}


def _run(size_mb: int, rounds: int, trace: Path | None) -> dict[str, Any]:
    from yr_fastload_native.checkpoints.synthetic import make_qwen2
    from yr_fastload_native.measuring.host import measure_fixed_cost, measure_transfer
    from yr_fastload_native.measuring.resources import private_worker, require_memory
    from yr_fastload_native.measuring.statistics import machine
    from yr_fastload_native.process.scratch import scratch
    from yr_fastload_native.settings import Config

    external = Config.worker_from_env()
    total = size_mb * _MIB
    require_memory(total, copies=_COPIES - bool(external), op="bench")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch("bench", sockets=False))
        with output.progress_bar("making a checkpoint", total) as progress:
            model = make_qwen2(directory / "qwen2", size_mb=size_mb, progress=progress)
        worker = external or stack.enter_context(private_worker(total, output.note))
        record = measure_transfer(worker, model, rounds, output.note, trace)
        record["fixed_cost"] = measure_fixed_cost(worker, rounds)
    return {**record, "machine": machine()}


def _table(record: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    size = record["bytes"] / _GIB
    table = output.table(
        f"{record['tensors']} tensors, {size:.2f} GiB, {record['copy_threads']} threads, "
        f"medians of {record['rounds']} rounds",
        "",
        ">seconds",
        ">GiB/s",
    )
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
        _breakdown_table(record),
        f"share of memcpy: {record['memcpy_share_touched']:.2f} touched, {record['memcpy_share_fresh']:.2f} fresh",
        f"against {record['disk_reader']}: {record['speedup_cold']:.1f}x cold, {record['speedup_warm']:.1f}x warm",
        f"{fixed['tensors']} tensors of {fixed['tensor_bytes']} bytes: plan {fixed['plan_s'] * 1e3:.1f} ms, "
        f"publish {fixed['publish_s']:.3f} s, pull {fixed['load_s']:.3f} s",
        "verified: yes, every byte",
    )


def _device_table(record: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    size = record["bytes"] / _GIB
    table = output.table(
        f"{record['transport']}: {record['tensors']} tensors, {size:.3f} GiB, {record['chunks']} chunks, "
        f"medians of {record['rounds']} rounds",
        "",
        ">seconds",
        ">GiB/s",
    )
    rows = {"load": record["load_s"], "load, the first": record["first_load_s"], "raw copy": record["raw_copy_s"]}
    rows["publish"] = record["publish_s"]
    baseline = record.get("baseline")
    if baseline:
        rows |= {
            "one key per parameter: load": baseline["load_s"],
            "one key per parameter: publish": baseline["publish_s"],
        }
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds:.4f}", f"{size / seconds:.2f}")
    lines = [f"load at {record['raw_share']:.2f} of the raw copy's rate"]
    if baseline:
        lines.append(
            f"against one key per parameter: load {record['speedup_load']:.1f}x, publish "
            f"{record['speedup_publish']:.1f}x, overhead over a raw copy {record['overhead_ratio']:.3f} times as large"
        )
    if "fan_out" in record:
        fan_out = record["fan_out"]
        lines.append(
            f"{fan_out['readers']} readers at once: the publisher sent {fan_out['publisher_sent_ratio']:.2f} times the "
            f"model, all done in {fan_out['wall_s']:.2f} s"
        )
    if record["simulated"]:
        lines.append("devices: simulated; rates say nothing of real ones, see docs/simulated-ascend.md")
    lines.append("verified: yes, every byte")
    return Group(table, _breakdown_table(record), *lines)


def _breakdown_table(record: Mapping[str, Any]) -> Table:
    title = "stages of the last pull; times of threads are summed, those that overlap too"
    table = output.table(title, "", ">ms", ">threads", ">MiB", ">from ms", ">to ms")
    for row in record["breakdown"]:
        times = [f"{row[key] * 1e3:.1f}" for key in ("seconds", "begin_s", "end_s")]
        table.add_row(row["stage"], times[0], str(row["threads"]), f"{row['bytes'] / _MIB:.1f}", *times[1:])
    return table
