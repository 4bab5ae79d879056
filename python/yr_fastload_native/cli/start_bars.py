"""Starts of instances as bars in the terminal, one below the other, phase by phase."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["start_bars"]

_WIDTH = 60  # characters of the longest start
_COLOURS = ("blue", "cyan", "magenta", "yellow", "green", "red")
_SHADES = "█▓▒░"  # neighbours differ without colours too


def start_bars(starts: Mapping[str, Sequence[Mapping[str, Any]]]) -> RenderableType:
    """Draw starts, each as long beside the others as it took.

    Args:
        starts: By the name of the instance, its phases: ``name``, ``seconds``, and ``facts`` if there are any.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(phase["name"] for phases in starts.values() for phase in phases))
    longest = max((_seconds(phases) for phases in starts.values()), default=0.0) or 1.0
    widest = max(map(len, starts), default=0)
    lines = []
    for name, phases in starts.items():
        line = Text(f"{name:{widest}}  ")
        drawn, passed = 0, 0.0
        for phase in phases:
            passed += phase["seconds"]
            until = round(_WIDTH * passed / longest)
            line.append(_bar(names.index(phase["name"]), until - drawn))
            drawn = until
        lines.append(line.append(f" {passed:.2f} s"))
    key = Table.grid(padding=(0, 2))
    for number, name in enumerate(names):
        key.add_row(_bar(number, 2), name, *(_took(name, phases) for phases in starts.values()))
    return Group(*lines, key)


def _bar(number: int, length: int) -> Any:
    from rich.text import Text

    style = _COLOURS[number % len(_COLOURS)] if sys.stdout.isatty() else ""
    return Text(_SHADES[number % len(_SHADES)] * length, style=style)


def _took(name: str, phases: Sequence[Mapping[str, Any]]) -> str:
    found = [phase for phase in phases if phase["name"] == name]
    if not found:
        return f"{'-':>6}"
    cache = found[0].get("facts", {}).get("cache")
    return f"{_seconds(found):6.2f} s" + (f", {cache}" if cache else "")


def _seconds(phases: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(phase["seconds"] for phase in phases))
