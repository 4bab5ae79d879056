"""What a campaign counts, and what it prints of it."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict

import attrs
import click
from rich.console import Console
from rich.table import Table

from chaos.schedule import Round

__all__ = ["Tally"]


@attrs.define
class Kind:
    """What became of the loads of one kind of fault."""

    rounds: int = 0
    loads: Counter[str] = attrs.Factory(Counter)
    bytes: int = 0
    late_s: float = 0.0  # the most that a load took beyond its deadline
    recovery_s: float = 0.0  # the most until what somebody still held could be loaded again


@attrs.define
class Tally:
    """Counts of a campaign, and everything that should not have happened."""

    seed: int
    target: str = "chaos"  # of make
    kinds: dict[str, Kind] = attrs.Factory(lambda: defaultdict(Kind))
    bytes_verified: int = 0
    wrong_bytes: int = 0
    stalls: int = 0
    leaks: int = 0
    unexpected: int = 0
    lost: int = 0
    problems: list[str] = attrs.Factory(list)

    def loaded(self, spec: Round, how: str, size: int, late_s: float) -> None:
        kind = self.kinds[spec.kind]
        kind.loads[how] += 1
        kind.bytes += size
        kind.late_s = max(kind.late_s, late_s)
        self.bytes_verified += size

    def wrong(self, spec: Round, count: int, what: str) -> None:
        self.wrong_bytes += count
        self._problem(spec, f"{count} WRONG BYTES: {what}")

    def stall(self, spec: Round, what: str) -> None:
        self.stalls += 1
        self._problem(spec, f"STALL: {what}")

    def leak(self, spec: Round, what: str) -> None:
        self.leaks += 1
        self._problem(spec, f"LEAK: {what}")

    def surprise(self, spec: Round, what: str) -> None:
        """Neither right bytes nor an error that this fault allows."""
        self.unexpected += 1
        self._problem(spec, f"UNEXPECTED: {what}")

    def lose(self, spec: Round, what: str) -> None:
        """A publication that nobody can load though somebody holds it."""
        self.lost += 1
        self._problem(spec, f"LOST: {what}")

    def recovered(self, spec: Round, seconds: float) -> None:
        """What somebody still held after a fault could be loaded, this long after the fault had ended."""
        kind = self.kinds[spec.kind]
        kind.recovery_s = max(kind.recovery_s, seconds)

    def _problem(self, spec: Round, what: str) -> None:
        text = f"round {spec.number} ({spec.kind}, {spec.publish_as}): {what}"
        self.problems.append(text)
        click.echo(f"{text}\n  again: make {self.target} SEED={self.seed} ARGS='--only {spec.number}'")

    def good(self) -> bool:
        return not (self.wrong_bytes or self.stalls or self.leaks or self.unexpected or self.lost)

    def table(self) -> None:
        made = Table("fault", "rounds", "loaded", "MiB verified", "typed errors", "beyond deadline, s", "recovery, s")
        for name, kind in sorted(self.kinds.items()):
            errors = ", ".join(f"{code} {count}" for code, count in kind.loads.most_common() if code != "loaded")
            late, recovery = (f"{longest:.2f}" if longest > 0 else "" for longest in (kind.late_s, kind.recovery_s))
            size = f"{kind.bytes / (1 << 20):.0f}"
            made.add_row(name, str(kind.rounds), str(kind.loads["loaded"]), size, errors, late, recovery)
        Console(width=None if sys.stdout.isatty() else 140).print(made)

    def as_json(self, **more: object) -> str:
        """One line, in which promises come last."""
        return json.dumps(
            {
                "seed": self.seed,
                **more,
                "loads": dict(sum((kind.loads for kind in self.kinds.values()), Counter[str]())),
                "recovery_s": round(max((kind.recovery_s for kind in self.kinds.values()), default=0.0), 1),
                "unexpected": self.unexpected,
                "lost": self.lost,
                "rounds": sum(kind.rounds for kind in self.kinds.values()),
                "faults": {name: kind.rounds for name, kind in sorted(self.kinds.items())},
                "bytes_verified": self.bytes_verified,
                "wrong_bytes": self.wrong_bytes,
                "stalls": self.stalls,
                "leaks": self.leaks,
            }
        )
