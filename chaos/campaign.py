"""A campaign: a look at what processes hold when everything works, rounds of faults, and a last look."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from chaos import schedule
from chaos.clock import build_library
from chaos.leak_checker import LeakChecker
from chaos.machine_stalls import MachineStalls
from chaos.site import Site
from chaos.tally import Tally
from yr_fastload_native.errors import FastLoadError

__all__ = ["Campaign"]

_PATIENCE_S = 70.0
_CALL_S = 30.0
_LET_GO_S = 1.5  # openYuanrong's, of a connection that was used


class Campaign:
    """Rounds of one seed; everything that it has started ends with the block.

    Args:
        seed: From which, with a round's number, everything random follows.
        site: Where it runs.
        quiet: Print problems, and no line for each round.

    Raises:
        FastLoadError: Not even a round without a fault went well.
    """

    def __init__(self, seed: int, site: Site, *, quiet: bool = False) -> None:
        self._seed, self._site, self._quiet = seed, site, quiet
        self._started = time.monotonic()
        self.tally = Tally(seed, site.target)
        with contextlib.ExitStack() as stack:
            # Short: sockets have their names in it.
            directory = tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp", ignore_cleanup_errors=True)
            self._directory = Path(stack.enter_context(directory))
            self._stalls = stack.enter_context(MachineStalls())
            clock_library = build_library(self._directory)
            self._nodes, self._workers = site.make(stack, self._directory, clock_library)
            self._leaks = LeakChecker(self._nodes, self._workers, self.tally, self._stalls)
            self._warm_up()
            self._stack = stack.pop_all()

    def _warm_up(self) -> None:
        """Rounds without a fault, to see what a process holds when everything works."""
        nodes = [self._nodes.fork(where) for where in self._site.warm_up_on]
        closed, opened = [], []
        for turn, publish_as in enumerate(self._site.warm_up):
            spec = schedule.draw(turn, -1, "none", (publish_as,))
            settings = {"publish_as": publish_as, **schedule.COMMON}
            settings |= {"transport": "host"} if publish_as == "host" else {}
            same: dict[str, Any] = {
                "identity": spec.identity,
                "model": spec.model,
                "framework": "torch",
            }
            own = [settings | {"worker": self._workers.address_of(node)} for node in nodes]
            published = nodes[0].call("publish", _CALL_S, content=turn, settings=own[0], **same)
            loaded = nodes[1].call("load", _CALL_S, number=-1, contents=[turn], deadline_s=20, settings=own[1], **same)
            if loaded.get("wrong", 1) or "generation" not in published:
                raise FastLoadError(f"not even without a fault: {published}, {loaded}", op="chaos")
            opened += [node.call("measure", _CALL_S) for node in nodes]
            for node in nodes:
                node.start("close")
            for node in nodes:
                node.finish(_CALL_S)
            time.sleep(_LET_GO_S)
            closed += [node.call("measure", _CALL_S) for node in nodes]
            nodes.reverse()
        self._leaks.calibrate(closed, opened)

    def run(self, numbers: Iterable[int], kinds: Sequence[str]) -> None:
        """Run rounds of these kinds of faults, one after the other."""
        for number in numbers:
            self._round(number, kinds)

    def _round(self, number: int, kinds: Sequence[str]) -> None:
        started, tally = time.monotonic(), self.tally
        kind = schedule.kind_of(self._seed, number, kinds)
        spec = self._site.draw(self._seed, number, kind)
        fault = self._site.kinds[kind](spec)
        counted = tally.kinds[kind]
        counted.rounds += 1
        before, problems = dict(counted.loads), len(tally.problems)
        scenario = self._site.scenario(spec, self._workers, self._leaks, self._directory / "ledger")
        try:
            scenario.run(fault)
        except FastLoadError as error:
            tally.surprise(spec, f"what the campaign itself asked of the worker: {error}")
            scenario.abandon()
        self._leaks.look()
        if not self._quiet:
            ends = {code: count - before.get(code, 0) for code, count in counted.loads.items()}
            shown = ", ".join(f"{code} {count}" for code, count in ends.items() if count)
            told = " ".join(f"{key}={value}" for key, value in fault.told.items())
            seconds = time.monotonic() - started
            click.echo(f"{number:4} {kind:19} {spec.publish_as:10} {shown}  [{told}] {seconds:.2f} s")
        if len(tally.problems) > problems:
            click.echo(f"  {spec.told()} {fault.told}")

    def finish(self) -> dict[str, Any]:
        """Look for what is left, wait for what is to end soon, and sum up."""
        ended = self._leaks.finish(schedule.draw(self._seed, -1, "the end"), _PATIENCE_S)
        now = time.monotonic()
        ended["starved_s"] = round(self._stalls.lag(self._started, now), 1)
        return {"seconds": round(now - self._started, 1), **ended}

    def __enter__(self) -> Campaign:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
