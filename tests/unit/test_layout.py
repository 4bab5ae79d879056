"""The rooms of csrc: an include leads to a lower floor, or to the same room. Python's are import-linter's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
MAY_KNOW = {
    "core": set(),
    "devices": {"core"},
    "testing": {"core"},
    "datasystem": {"core"},
    "transports": {"core", "datasystem"},
    "bindings": {"core", "devices", "testing", "datasystem", "transports"},
    "sim": {"engine", "cuda"},  # folders of its own
}


def test_every_room_has_a_floor() -> None:
    assert {path.name for path in CSRC.iterdir() if path.is_dir()} == set(MAY_KNOW)


@pytest.mark.parametrize("room", MAY_KNOW)
def test_includes_lead_down(room: str) -> None:
    allowed = {room, *MAY_KNOW[room]}
    up = [
        f"{path.relative_to(CSRC)}: {header}"
        for path in (CSRC / room).rglob("*.[ch]pp")
        for header in re.findall(r'#include "([^"]+)"', path.read_text())
        if "/" in header and header.partition("/")[0] not in allowed
    ]
    assert not up


@pytest.mark.parametrize("room", ["core", "devices", "testing"])
def test_the_lower_rooms_know_no_vendor(room: str) -> None:
    headers = {
        header
        for path in (CSRC / room).rglob("*.[ch]pp")
        for header in re.findall(r"#include <([^>]+)>", path.read_text())
    }
    assert not {header for header in headers if re.search(r"datasystem|pybind11|Python|acl|cuda|torch", header)}
