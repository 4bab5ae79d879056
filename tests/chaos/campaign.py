"""Rounds of publishing and loading under faults: ``make chaos``. The last line of its output is JSON.

Everything random follows from the seed and a round's number, so that one round can be run again by itself.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import schedule
from faults import KINDS
from herd import Herd, Workers
from pulse import Pulse
from stage import Stage
from tally import Tally
from watch import Watch

import yr_fastload_native as fl

_POOL_MB = 256
_PATIENCE_S = 70.0
_WARM_UP = ("host", "staged", "d2d", "d2d")
_LET_GO_S = 1.5  # openYuanrong's, of a connection that was used


def _warm_up(herd: Herd, workers: Workers, watch: Watch) -> None:
    """Rounds without a fault, to see what a process holds when everything works."""
    nodes = [herd.fork() for _ in range(2)]
    closed, opened = [], []
    for turn, publish_as in enumerate(_WARM_UP):
        spec = schedule.draw(turn, -1, "none", (publish_as,))
        settings = {"worker": workers.current.address, "publish_as": publish_as}
        settings |= {"transport": "host"} if publish_as == "host" else {}
        same = {"identity": spec.identity, "model": spec.model, "framework": "torch", "settings": settings}
        published = nodes[0].call("publish", 30, content=turn, **same)
        loaded = nodes[1].call("load", 30, number=-1, contents=[turn], deadline_s=20, **same)
        if loaded.get("wrong", 1) or "generation" not in published:
            raise click.ClickException(f"not even without a fault: {published}, {loaded}")
        opened += [node.call("measure", 30) for node in nodes]
        for node in nodes:
            node.start("close")
        for node in nodes:
            node.finish(30)
        time.sleep(_LET_GO_S)
        closed += [node.call("measure", 30) for node in nodes]
        nodes.reverse()
    watch.calibrate(closed, opened)


@click.command()
@click.option("--seed", default=1, show_default=True)
@click.option("--rounds", default=150, show_default=True)
@click.option("--only", type=int, help="Run this round alone.")
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Draw rounds of these kinds alone."
)
@click.option("--quiet", is_flag=True, help="No line for each round.")
def main(seed: int, rounds: int, only: int | None, kinds: tuple[str, ...], quiet: bool) -> None:
    """Publish and load under every kind of fault, and check every byte."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has started goes with it
    started = time.monotonic()
    tally = Tally(seed)
    # Short: sockets have their names in it.
    private = tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp", ignore_cleanup_errors=True)
    with private as name, Pulse() as pulse:
        directory = Path(name)
        herd = Herd(directory)
        try:
            workers = Workers(_POOL_MB, herd.clock_library)
            try:
                watch = Watch(herd, workers, tally, pulse)
                _warm_up(herd, workers, watch)
                for number in range(rounds) if only is None else [only]:
                    _round(seed, number, kinds or tuple(KINDS), workers, watch, directory, quiet=quiet)
                ended = watch.finish(schedule.draw(seed, -1, "the end"), _PATIENCE_S)
            finally:
                workers.close()
        finally:
            herd.close()
        ended["starved_s"] = round(pulse.lag(started, time.monotonic()), 1)
    tally.table()
    for problem in tally.problems:
        click.echo(problem.splitlines()[0])
    click.echo(tally.as_json(seconds=round(time.monotonic() - started, 1), **ended))
    sys.exit(0 if tally.good() else 1)


def _round(
    seed: int, number: int, kinds: Sequence[str], workers: Workers, watch: Watch, directory: Path, *, quiet: bool
) -> None:
    started, tally = time.monotonic(), watch.tally
    kind = schedule.kind_of(seed, number, kinds)
    spec = schedule.draw(seed, number, kind, KINDS[kind].transports)
    fault = KINDS[kind](spec)
    counted = tally.kinds[kind]
    counted.rounds += 1
    before, problems = dict(counted.loads), len(tally.problems)
    stage = Stage(spec, workers, watch, directory)
    try:
        stage.run(fault)
    except fl.FastLoadError as error:
        tally.surprise(spec, f"what the campaign itself asked of the worker: {error}")
        stage.abandon()
    watch.look()
    ends = {code: count - before.get(code, 0) for code, count in counted.loads.items()}
    if not quiet:
        shown = ", ".join(f"{code} {count}" for code, count in ends.items() if count)
        told = " ".join(f"{key}={value}" for key, value in fault.told.items())
        click.echo(f"{number:4} {kind:19} {spec.publish_as:10} {shown}  [{told}] {time.monotonic() - started:.2f} s")
    if len(tally.problems) > problems:
        click.echo(f"  {spec.told()} {fault.told}")


if __name__ == "__main__":
    main()
