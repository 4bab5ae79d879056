"""``yr-fastload worker``: start, stop and inspect the local openYuanrong worker, and create keys for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from yr_fastload_native.worker import WorkerStatus

__all__ = ["worker"]

_home = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the worker.  [default: one per machine and user]",
)
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of text.")


@click.group()
def worker() -> None:
    """Run a local openYuanrong worker on loopback, one per machine and user."""


@worker.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1.  [default: a free one]")
@click.option(
    "--memory-mb",
    type=click.IntRange(min=0),
    default=0,
    help="Shared memory, MiB.  [default: half of the available memory]",
)
@click.option(
    "--curve-key-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory made by `worker keys`; only clients with its keys can connect.",
)
@_home
@_json
def start(port: int, memory_mb: int, curve_key_dir: Path | None, home: Path | None, as_json: bool) -> None:
    """Start the worker, or keep the running one; it stays until `worker stop`."""
    from yr_fastload_native.worker import LocalWorker

    LocalWorker(home=home, port=port, memory_mb=memory_mb, keep=True, curve_key_dir=curve_key_dir).start()
    _show(LocalWorker.status(home), as_json)


@worker.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@_json
def keys(directory: Path, as_json: bool) -> None:
    """Create curve keys for a worker and its clients in a new DIRECTORY."""
    from yr_fastload_native.worker import make_curve_keys

    made = make_curve_keys(directory)
    if as_json:
        click.echo(json.dumps({"curve_key_dir": str(made)}))
    else:
        click.echo(f"created curve keys in {made}")
        click.echo(f"use them with  yr-fastload worker start --curve-key-dir {made}")
        click.echo(f"and for clients  export YR_FASTLOAD_CURVE_KEY_DIR={made}")


@worker.command()
@_home
@_json
def stop(home: Path | None, as_json: bool) -> None:
    """Stop the worker, even if it is in use; no error if none is running."""
    from yr_fastload_native.worker import LocalWorker

    status = LocalWorker.status(home)
    LocalWorker(home=home).stop(force=True)
    if as_json:
        click.echo(json.dumps({"stopped": status is not None}))
    else:
        click.echo(f"stopped worker {status.address} (pid {status.pid})" if status else "no worker was running")


@worker.command()
@_home
@_json
def status(home: Path | None, as_json: bool) -> None:
    """Show the worker; exit status 1 if none is running."""
    from yr_fastload_native.worker import LocalWorker

    found = LocalWorker.status(home)
    _show(found, as_json)
    sys.exit(0 if found else 1)


def _show(status: WorkerStatus | None, as_json: bool) -> None:
    if as_json:
        facts: dict[str, object] = {"running": False}
        if status:
            facts = {
                "running": True,
                "address": status.address,
                "metastore_address": status.metastore_address,
                "pid": status.pid,
                "memory_mb": status.memory_mb,
                "home": str(status.home),
                "keep": status.keep,
                "curve": status.curve,
                "uptime_s": round(status.uptime_s, 1),
            }
        click.echo(json.dumps(facts))
    elif status is None:
        click.echo("no worker is running; `yr-fastload worker start` starts one")
    else:
        click.echo(
            f"worker {status.address} is running: pid {status.pid}, {status.memory_mb} MiB, up {status.uptime_s:.0f} s,"
            f" home {status.home}"
        )
        click.echo(f"use it with  export DS_WORKER_ADDR={status.address}")
