"""``make gpu-check``: checks and figures of the first GPU of this machine, as JSON."""

from __future__ import annotations

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.cuda.checks import run_checks
from benchmarks.cuda.figures import Budget, measure
from yr_fastload_native import _core
from yr_fastload_native.measuring.statistics import machine

_RESULTS = Path(__file__).parents[1] / "results" / "cuda.json"


def _note(message: str) -> None:
    click.echo(f"{datetime.datetime.now():%H:%M:%S}  {message}", err=True)


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=_RESULTS, show_default=True)
@click.option("--gib", type=float, default=8.0, show_default=True, help="Size of the large model.")
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--seconds", type=float, default=330.0, show_default=True, help="Bound of the whole run.")
@click.option("--only-checks", is_flag=True, help="Measure nothing.")
def main(output: Path, gib: float, rounds: int, seconds: float, only_checks: bool) -> None:
    """Check that every byte arrives on a real GPU, and measure how fast."""
    started = time.monotonic()
    if not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU here")
    torch.cuda.set_device(0)
    card = torch.cuda.get_device_properties(0)
    _note(f"{card.name}, {card.total_memory >> 30} GiB, torch {torch.__version__}")
    record: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "card": card.name,
        "driver": _core.cuda_driver_version(),
        "torch": torch.__version__,
        "machine": machine(),
        "checks": run_checks(_note),
    }
    failed = [name for name, outcome in record["checks"].items() if outcome != "passed"]
    figures: dict[str, Any] = {}
    try:
        if not only_checks:
            measure(figures, int(gib * (1 << 30)), rounds, Budget(started + seconds), _note)
    finally:
        record |= {"figures": figures, "seconds": time.monotonic() - started}
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=2) + "\n")
    click.echo(json.dumps(record, indent=1))
    for name in failed:
        click.echo(f"FAILED: {name}: {record['checks'][name]}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
