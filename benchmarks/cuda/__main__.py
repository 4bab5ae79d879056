"""``make gpu-check``: checks and figures of the first GPU of this machine, as JSON.

The figures come first, one after the other; then the checks, several at a time. Each is a process of its own with a
bound: one that fails, crashes or hangs costs the others nothing, and what it said is in the result.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import click
import torch

from benchmarks.cuda.part import FIGURES, Options, checks
from yr_fastload_native import _core
from yr_fastload_native.measuring.statistics import machine

_RESULTS = Path(__file__).parents[1] / "results" / "cuda.json"
_CHECK_S = 100.0
_CHECKS_AT_A_TIME = 3
_SAID_CHARS = 3000


def _note(message: str) -> None:
    click.echo(f"{datetime.datetime.now():%H:%M:%S}  {message}", err=True)


@attrs.frozen
class _Runner:
    folder: Path
    options: Options
    end: float

    def run(self, name: str, seconds: float) -> dict[str, Any]:
        """What a part found; beside that ``error`` and ``said`` where it failed."""
        seconds = min(seconds, self.end - time.monotonic())
        if seconds <= 5:
            return {"error": "there was no time left", "said": ""}
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path, said = folder / "found.json", folder / "said"
        told = json.dumps(attrs.asdict(attrs.evolve(self.options, seconds=seconds - 5)))
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.cuda.part", name, str(path), told],
                stderr=file,
                stdout=file,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
        _end(process)
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        if code is None:
            found["error"] = f"it took longer than {seconds:.0f} s"
        elif code != 0:
            wrong = [each for each in found.get("outcomes", {}).values() if each != "passed"]
            found.setdefault("error", wrong[0] if wrong else f"it ended with {code}")
        if "error" in found:
            found["said"] = said.read_text(errors="replace")[-_SAID_CHARS:]
            click.echo(found["said"], err=True)
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _record() -> dict[str, Any]:
    card = torch.cuda.get_device_properties(0)
    _note(f"{card.name}, {card.total_memory >> 30} GiB, torch {torch.__version__}")
    return {
        "date": datetime.date.today().isoformat(),
        "card": card.name,
        "driver": _core.cuda_driver_version(),
        "torch": torch.__version__,
        "machine": machine(),
    }


@click.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=_RESULTS, show_default=True)
@click.option("--gib", type=float, default=8.0, show_default=True, help="Size of the large model.")
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--seconds", type=float, default=340.0, show_default=True, help="Bound of the whole run.")
@click.option("--only", multiple=True, help="Parts to run, by a piece of their names.  [default: all]")
def main(output: Path, gib: float, rounds: int, seconds: float, only: tuple[str, ...]) -> None:
    """Check that every byte arrives on a real GPU, and measure how fast."""
    started = time.monotonic()
    if not torch.cuda.is_available():
        raise click.ClickException("torch sees no GPU here")
    record = _record()
    outcomes: dict[str, str] = {}
    figures: dict[str, Any] = {}
    record |= {"checks": outcomes, "figures": figures}

    def wanted(name: str) -> bool:
        return not only or any(piece in name for piece in only)

    def save() -> None:
        record["seconds"] = time.monotonic() - started
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        runner = _Runner(Path(folder), Options(int(gib * (1 << 30)), rounds, 0.0), started + seconds)
        for name, bound in FIGURES.items():
            if wanted(f"figures of {name}"):
                _note(f"figures of {name}")
                figures[name] = runner.run(name, bound)
                save()
        lock = threading.Lock()

        def check(name: str) -> None:
            found = runner.run(name, _CHECK_S)
            with lock:
                outcomes.update(found.get("outcomes", {}))
                if "error" in found:
                    outcomes.setdefault(name, found["error"])
                    record.setdefault("said", {})[name] = found["said"]
                _note(f"{name}: {found.get('error', 'passed')[:300]}")
                save()

        with ThreadPoolExecutor(_CHECKS_AT_A_TIME) as pool:
            list(pool.map(check, filter(wanted, checks())))
    click.echo(json.dumps(record, indent=1))
    failed = {name: outcome for name, outcome in outcomes.items() if outcome != "passed"}
    failed |= {f"figures of {name}": each["error"] for name, each in figures.items() if "error" in each}
    for name, outcome in failed.items():
        click.echo(f"FAILED: {name}: {outcome}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
