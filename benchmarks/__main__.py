"""``make bench``: every system on the same bytes; writes JSON and plots, and prints the table of targets."""

from __future__ import annotations

import datetime
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import checkpoint, costs, device, engine, host, overhead, ready, scaling
from benchmarks.about import about
from benchmarks.peers import versions
from benchmarks.targets import judge

_RESULTS = Path(__file__).with_name("results")
# Left out where no target hangs on it, for time.
_SLOW = ("torch.load", "safetensors, mapped", "safetensors, touched", "run:ai model streamer, touched")
SECTIONS = ("host", "device", "engine", "ready", "overhead", "scaling", "checkpoint")


def _note(message: str) -> None:
    click.echo(f"{datetime.datetime.now():%H:%M:%S}  {message}", err=True)


def _host(rounds: int, scale: float) -> dict[str, Any]:
    workloads = {"qwen2.5-7b": 0.1, "qwen3-30b-a3b": 0.008, "huge": 1.0, "tiny": 1.0}
    found = {}
    for name, share in workloads.items():
        if name == "qwen2.5-7b":
            found[name] = host.measure(name, share * scale, rounds, _note)
        else:  # no target hangs on the others
            found[name] = host.measure(name, share * scale, min(rounds, 2), _note, without=_SLOW)
    return found


def _device(rounds: int, scale: float) -> dict[str, Any]:
    return {
        "qwen2.5-7b": device.measure("d2d", "qwen2.5-7b", 0.02 * scale, rounds, _note, baseline=True, readers=7),
        "tiny": device.measure("d2d", "tiny", scale, min(rounds, 3), _note, baseline=True),
        "qwen3-30b-a3b": device.measure("d2d", "qwen3-30b-a3b", 0.005 * scale, min(rounds, 3), _note),
        "huge": device.measure("d2d", "huge", 0.5 * scale, min(rounds, 3), _note),
        "staged": device.measure("staged", "qwen2.5-7b", 0.02 * scale, min(rounds, 3), _note),
        "interference": device.interference("qwen2.5-7b", 0.02 * scale, min(rounds, 4), _note),
    }


def _engine(rounds: int, scale: float) -> dict[str, Any]:
    if not engine.COMMAND.exists():
        _note("no vLLM here (make .venv-vllm/.develop): left out")
        return {}
    with tempfile.TemporaryDirectory(prefix="yr-fastload-") as scratch:
        return engine.measure(max(64, int(2200 * scale)), min(rounds, 3), Path(scratch), _note)


def _ready(rounds: int, scale: float) -> dict[str, Any]:
    if not ready.COMMAND.exists():
        _note("no vLLM here (make .venv-vllm/.develop): left out")
        return {}
    with tempfile.TemporaryDirectory(prefix="yr-fastload-") as scratch:
        return ready.measure(max(64, int(1000 * scale)), rounds, Path(scratch), _note)


def _overhead(rounds: int, scale: float) -> dict[str, Any]:
    (found,) = overhead.measure_tensors([max(100, int(50_000 * scale))], rounds, _note)
    return found


def _scaling(rounds: int, scale: float) -> dict[str, Any]:
    return scaling.measure(rounds, scale, _note)


def _checkpoint(rounds: int, scale: float) -> dict[str, Any]:
    return checkpoint.measure(max(16, int(1024 * scale)), max(100, int(20_000 * scale)), rounds, _note)


def _kept(results: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The records of a run, and for sections that it left out those of an earlier one in the same folder."""
    kept = dict(measured)
    for section in set(SECTIONS) - set(measured):
        path = results / f"{section}.json"
        if path.exists():
            kept[section] = json.loads(path.read_text())["results"]
    return kept


_MEASURE = {
    "host": _host,
    "device": _device,
    "engine": _engine,
    "ready": _ready,
    "overhead": _overhead,
    "scaling": _scaling,
    "checkpoint": _checkpoint,
}


@click.command()
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
@click.option("--sections", default=",".join(SECTIONS), show_default=True, help="Which ones to run.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--scale", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Of all sizes, for a quick try.")
@click.option("--json", "as_json", is_flag=True, help="The targets as one line of JSON instead of a table.")
def main(results: Path, sections: str, rounds: int, scale: float, as_json: bool) -> None:
    """Measure, write JSON and plots, and print which targets are met."""
    wanted = sections.split(",")
    unknown = set(wanted) - set(SECTIONS)
    if unknown:
        raise click.UsageError(f"--sections {', '.join(sorted(unknown))}: use some of {', '.join(SECTIONS)}")
    results.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    run = {**about("benchmarks"), "rivals": versions()}
    records: dict[str, Any] = {}
    took: dict[str, float] = {}
    for section in wanted:
        begun = time.monotonic()
        record = _MEASURE[section](rounds, scale)
        took[section] = time.monotonic() - begun
        if record:
            records[section] = record
            text = json.dumps({**run, "took_s": took[section], "results": record}, indent=1)
            (results / f"{section}.json").write_text(text + "\n")
    verdict = judge(_kept(results, records))
    (results / "targets.json").write_text(json.dumps({**run, **verdict}, indent=1) + "\n")
    from benchmarks.plots import plot_all

    plot_all(records, results)
    if results == _RESULTS and scale == 1 and set(costs.SECTIONS) <= set(wanted):
        costs.write(results)
    _note("; ".join(f"{section}: {seconds:.0f} s" for section, seconds in took.items()))
    _note(f"done in {time.monotonic() - started:.0f} s; results in {results}")
    if as_json:
        click.echo(json.dumps(verdict))
    else:
        Console().print(_table(verdict))


def _table(verdict: dict[str, Any]) -> Table:
    table = Table(title="targets")
    for heading in ("", "value", "target", ""):
        table.add_column(heading, justify="right" if heading in ("value", "target") else "left")
    for row in verdict["targets"]:
        value = "-" if row["value"] is None else f"{row['value']:.3g}"
        outcome = "-" if row["value"] is None else "pass" if row["passed"] else "fail"
        table.add_row(row["name"], value, row["target"], outcome)
    return table


if __name__ == "__main__":
    main()
