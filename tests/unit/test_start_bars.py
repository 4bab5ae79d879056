"""Starts as bars in a terminal: their lengths are to each other as their seconds."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from yr_fastload_native.cli.start_bars import start_bars


def drawn(starts: dict[str, list[dict[str, Any]]]) -> list[str]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - as long as the console
    console.print(start_bars(starts))
    console.file.close()
    return console.export_text().splitlines()


def phase(name: str, seconds: float, **facts: Any) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "facts": facts}


def test_bars_are_as_long_as_starts_took() -> None:
    first = [phase("server imported", 6.0), phase("compiled", 10.0, cache="miss"), phase("server answers", 4.0)]
    second = [phase("compiled", 1.0, cache="hit"), phase("server answers", 1.0)]
    lines = drawn({"first instance": first, "one more": second})
    one, two = (sum(character in "█▓▒░" for character in line) for line in lines[:2])
    assert (one, two) == (60, 6)
    assert lines[0].endswith(" 20.00 s")
    assert lines[1].endswith(" 2.00 s")
    assert [line.split()[1:] for line in lines[2:]] == [
        ["server", "imported", "6.00", "s", "-"],
        ["compiled", "10.00", "s,", "miss", "1.00", "s,", "hit"],
        ["server", "answers", "4.00", "s", "1.00", "s"],
    ]


@pytest.mark.parametrize("starts", [{}, {"one": []}, {"one": [phase("launched", 0.0)]}])
def test_what_took_no_time_is_drawn_too(starts: dict[str, list[dict[str, Any]]]) -> None:
    assert not any("█" in line[:20] for line in drawn(starts)[: len(starts)])
