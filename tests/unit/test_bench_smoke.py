"""`make bench-smoke`: which ratios count as lost, and that a busy moment does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks import smoke
from click.testing import CliRunner


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps({"a / b": 10.0, "c / d": 2.0}))
    monkeypatch.setattr(smoke, "REFERENCE", path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, measured: Iterator[dict[str, float]], *options: str) -> tuple[int, str]:
    monkeypatch.setattr(smoke, "_measure", lambda: next(measured))
    done = CliRunner().invoke(smoke.main, options, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("measured", "lost"),
    [
        ({"a / b": 7.1, "c / d": 9.0}, []),
        ({"a / b": 6.9, "c / d": 2.0}, ["a / b: 6.9, and 10 in"]),
        ({"a / b": 10.0}, ["c / d was not measured"]),
        ({"a / b": 10.0, "c / d": 2.0, "e / f": 1.0}, ["e / f is not in"]),
    ],
)
def test_what_is_lost(measured: dict[str, float], lost: list[str]) -> None:
    lines = smoke.compare(measured, {"a / b": 10.0, "c / d": 2.0})
    assert [line[: len(wanted)] for line, wanted in zip(lines, lost, strict=True)] == lost


@pytest.mark.usefixtures("reference")
def test_the_best_of_three_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [{"a / b": 1.0, "c / d": 2.0}, {"a / b": 2.0, "c / d": 1.0}, {"a / b": 9.0, "c / d": 0.1}]
    status, output = run(monkeypatch, iter(turns))
    assert status == 0
    assert "       9        10  a / b\n" in output


@pytest.mark.usefixtures("reference")
def test_a_loss_ends_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    status, output = run(monkeypatch, iter([{"a / b": 1.0, "c / d": 2.0}] * 3))
    assert status == 1
    assert "lost: a / b: 1, and 10 in reference.json" in output


def test_the_reference_is_what_is_reached_every_time(monkeypatch: pytest.MonkeyPatch, reference: Path) -> None:
    turns = [{"a / b": 5.0}, {"a / b": 4.0}, {"a / b": 6.0}]
    assert run(monkeypatch, iter(turns), "--update")[0] == 0
    assert json.loads(reference.read_text()) == {"a / b": 4.0}
