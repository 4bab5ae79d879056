"""``make bench-smoke``: has a change made anything slower? Ratios within one run, never seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from benchmarks import device, host

__all__ = ["compare", "main"]

REFERENCE = Path(__file__).with_name("smoke_reference.json")
_MAY_LOSE = 0.30
_ATTEMPTS = 3  # a machine that was busy with something else just then says otherwise when asked again
_ROUNDS = 5
_SYSTEMS = ("pull", "memcpy, own threads", "pull, zero copy, layout only")


def _note(message: str) -> None:
    click.echo(message, err=True)


def _measure() -> dict[str, float]:
    pulls = host.measure("qwen2.5-7b", 0.02, _ROUNDS, _note, _SYSTEMS)
    small = device.measure("d2d", "small", 0.05, 2 * _ROUNDS, _note)
    return {
        "host: memcpy / pull": pulls["memcpy_share"],
        "host: pull / pull without a copy": pulls["zero_copy_share"],
        "d2d, 5,000 tensors: bare copy / load": small["raw_share"],
        "d2d, 5,000 tensors: bare copy / publish": small["raw_copy_s"] / small["publish_s"],
    }


def compare(measured: dict[str, float], reference: dict[str, float]) -> list[str]:
    """A line for each ratio that has fallen too far, or has no counterpart."""
    lines = [f"{name} is not in {REFERENCE.name}" for name in measured.keys() - reference.keys()]
    for name, wanted in reference.items():
        value = measured.get(name)
        if value is None:
            lines.append(f"{name} was not measured")
        elif value < (1 - _MAY_LOSE) * wanted:
            lines.append(f"{name}: {value:.3g}, and {wanted:.3g} in {REFERENCE.name}")
    return lines


@click.command()
@click.option("--update", is_flag=True, help="Write what is reached every time as the new reference.")
def main(update: bool) -> None:
    """Measure for half a minute, compare with the committed reference; exit status 1 if a ratio fell by over 30 %."""
    if update:
        runs = [_measure() for _ in range(_ATTEMPTS)]
        lowest = {name: min(run[name] for run in runs) for name in runs[0]}
        REFERENCE.write_text(json.dumps(lowest, indent=2) + "\n")
        return
    reference = json.loads(REFERENCE.read_text())
    best: dict[str, float] = {}
    for _ in range(_ATTEMPTS):
        best = {name: max(value, best.get(name, value)) for name, value in _measure().items()}
        lost = compare(best, reference)
        if not lost:
            break
        _note("; ".join(lost))
    for name, value in best.items():
        click.echo(f"{value:8.3g}  {reference.get(name, float('nan')):8.3g}  {name}")
    for line in lost:
        click.echo(f"lost: {line}", err=True)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
