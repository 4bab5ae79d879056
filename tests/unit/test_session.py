"""What an instance says of its leases in the file of its reports."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from yr_fastload_native.vllm import reports, session

from ..waiting import wait_until

LOOKED_S = 1.2  # twice


class Loader:
    def __init__(self) -> None:
        self.trouble: dict[str, str] = {}

    def lease_trouble(self) -> dict[str, str]:
        return dict(self.trouble)


def test_trouble_is_told_when_it_begins_and_when_it_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loader, other = Loader(), Loader()
    monkeypatch.setattr(session, "_loaders", {(os.getpid(), None): loader, (0, None): other})
    monkeypatch.setattr(session, "_watched", {})
    monkeypatch.setattr(session, "_outcomes", [])
    report = tmp_path / "report"

    def told() -> list[dict[str, str]]:
        return [each["trouble"] for each in reports.events(report, "leases")]

    for _ in range(2):
        session.watch_leases(str(report))
    other.trouble = {"b": "lost: of the process that this one was forked from"}
    loader.trouble = {"a": "live: no answer for 1 s"}
    assert wait_until(lambda: told() == [{"a": "live: no answer for 1 s"}])
    loader.trouble = {"a": "live: no answer for 2 s"}
    time.sleep(LOOKED_S)
    loader.trouble = {}
    assert wait_until(lambda: len(told()) == 2)
    assert told()[1] == {}
    assert {each["pid"] for each in reports.events(report)} == {os.getpid()}
