"""One part of the run, in a process of its own: ``python -m benchmarks.cuda.part NAME FILE ...``.

What it finds is in the file as soon as it is known, so that what goes wrong later loses nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import attrs
import torch

from benchmarks.cuda.checks import host_checks, run_checks
from benchmarks.cuda.d2d_checks import d2d_checks
from benchmarks.cuda.d2d_figures import d2d
from benchmarks.cuda.figures import Budget, large, small

__all__ = ["FIGURES", "Options", "checks"]


@attrs.frozen
class Options:
    """What every part is told.

    Attributes:
        total: Size of a large model, bytes.
        rounds: Of each figure.
        seconds: That it may take.
    """

    total: int
    rounds: int
    seconds: float


_HOST = "host"

# By name, and most seconds; the figures that matter most come first.
FIGURES = {"d2d": 60.0, "large": 110.0, "small": 40.0}


def checks() -> list[str]:
    """Names of their parts: those by `host` share a process."""
    return [_HOST, *d2d_checks()]


def _note(found: dict[str, Any], path: Path, message: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')}  {message}\n")
    _save(found, path)


def _save(found: dict[str, Any], path: Path) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found))
    new.replace(path)


def _run(name: str, found: dict[str, Any], path: Path, options: Options) -> None:
    def note(message: str) -> None:
        _note(found, path, message)

    budget = Budget(time.monotonic() + options.seconds)
    if name == "large":
        large(found, options.total, options.rounds, budget, note)
    elif name == "small":
        found |= small(options.rounds, budget, note)
    elif name == "d2d":
        d2d(found, options.total, options.rounds, budget, note)
    elif name == _HOST:
        run_checks(host_checks(), found.setdefault("outcomes", {}), note)
    else:
        run_checks({name: d2d_checks()[name]}, found.setdefault("outcomes", {}), note)


def main() -> None:
    name, path, options = sys.argv[1], Path(sys.argv[2]), Options(**json.loads(sys.argv[3]))
    found: dict[str, Any] = {}
    torch.cuda.set_device(0)
    try:
        _run(name, found, path, options)
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"
    _save(found, path)
    sys.stderr.flush()
    failed = "error" in found or any(each != "passed" for each in found.get("outcomes", {}).values())
    os._exit(failed)  # a context that is lost may hang what ends in order


if __name__ == "__main__":
    main()
