"""``yr-fastload worker``: start, stop and inspect this machine's openYuanrong worker, and create keys for it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:
    from yr_fastload_native.cli.members import Member
    from yr_fastload_native.worker import LocalWorker, WorkerStatus
    from yr_fastload_native.worker.place import Place
    from yr_fastload_native.worker.running import Pool

__all__ = ["worker"]

_LOOK_S = 0.5
_START_S = 90.0  # a worker that cannot join its cluster at once tries again after a minute (0.8.1)
_TAKEN_MB_PER_S = 200  # of memory that a virtual machine has never touched (measured)

_home = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the worker.  [default: one per machine and user]",
)
_json = click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of text.")


@click.group()
def worker() -> None:
    """Run an openYuanrong worker, one per machine and user: on loopback, or in a cluster of machines."""


@worker.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1.  [default: a free one]")
@click.option("--address", default="", help="HOST:PORT that other machines reach it by: it is part of a cluster.")
@click.option("--head", is_flag=True, help="Begin a cluster, with its directory at the port above that of --address.")
@click.option("--join", default="", help="--address of the head of the cluster to join, HOST:PORT.")
@click.option("--etcd", default="", help="Join the cluster of an etcd, HOST:PORT[,HOST:PORT...].")
@click.option(
    "--insecure", is_flag=True, help="Let everybody who reaches --address read and write, without curve keys."
)
@click.option(
    "--memory-mb",
    type=click.IntRange(min=0),
    default=0,
    help="Shared memory, MiB.  [default: half of the available memory]",
)
@click.option("--huge-pages", is_flag=True, help="Use huge pages for the shared memory; they have to be reserved.")
@click.option("--populate", is_flag=True, help="Take all of the shared memory now, so that nobody waits for it later.")
@click.option(
    "--curve-key-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory made by `worker keys`; only clients with its keys can connect.",
)
@click.option("--foreground", is_flag=True, help="Stay until the worker ends, and stop it at SIGTERM: for systemd.")
@_home
@_json
def start(
    port: int,
    address: str,
    head: bool,
    join: str,
    etcd: str,
    insecure: bool,
    memory_mb: int,
    huge_pages: bool,
    populate: bool,
    curve_key_dir: Path | None,
    foreground: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Start the worker, or keep the running one; it stays until `worker stop`."""
    from yr_fastload_native.cli.members import remember
    from yr_fastload_native.worker import LocalWorker
    from yr_fastload_native.worker.memory import huge_pages_mb, pool_flags, pool_mb

    place = _place(port, address, head=head, join=join, etcd=etcd)
    _check_access(place, curve_key_dir, insecure)
    size_mb = (huge_pages_mb if huge_pages else pool_mb)(memory_mb) if populate else 0
    local = LocalWorker(
        home=home,
        memory_mb=memory_mb,
        start_timeout_s=_START_S + size_mb / _TAKEN_MB_PER_S,
        keep=True,
        curve_key_dir=curve_key_dir,
        place=place,
        flags=pool_flags(huge_pages=huge_pages, populate=populate),
    )
    with _ending_with(local) if foreground else contextlib.nullcontext():
        local.start()
        running = LocalWorker.status(home)
        if address and running is not None:
            remember(running)
        _show(running, as_json)


def _place(port: int, address: str, *, head: bool, join: str, etcd: str) -> Place:
    from yr_fastload_native.worker.place import Place

    if address:
        if port:
            raise InvalidArgumentError("--address has a port already; leave out --port", op="worker start")
        return Place.of(address, head=head, join=join, etcd=etcd)
    if head or join or etcd:
        raise InvalidArgumentError(
            "--head, --join and --etcd need --address, by which other machines reach this one", op="worker start"
        )
    return Place(port=port)


def _check_access(place: Place, curve_key_dir: Path | None, insecure: bool) -> None:
    """Refuse to let a network write weights unless that is asked for."""
    if place.is_loopback or curve_key_dir is not None:
        return
    if not insecure:
        raise InvalidArgumentError(
            f"whoever reaches {place.address} could read and replace weights; create keys with `yr-fastload worker "
            "keys DIR`, give them to all machines, and pass --curve-key-dir DIR; or pass --insecure on a network that "
            "only you use",
            op="worker start",
        )
    click.echo(f"warning: whoever reaches {place.address} can read and replace weights", err=True)


@contextlib.contextmanager
def _ending_with(local: LocalWorker) -> Iterator[None]:
    """Wait until the worker has ended, which is an error unless it was stopped on purpose; SIGTERM stops it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
        while not local.is_lost:
            time.sleep(_LOOK_S)
    except (SystemExit, KeyboardInterrupt):
        local.stop(force=True)
        raise
    if not local.was_stopped:
        raise UnavailableError("the worker has ended; its logs are in its home", op="worker start")


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
@click.option("--cluster", is_flag=True, help="Show all workers of its cluster.")
@_home
@_json
def status(cluster: bool, home: Path | None, as_json: bool) -> None:
    """Show the worker; exit status 1 if none is running."""
    from yr_fastload_native.worker import LocalWorker

    found = LocalWorker.status(home)
    if cluster and found:
        _show_cluster(found, as_json)
    else:
        _show(found, as_json)
    sys.exit(0 if found else 1)


def _show_cluster(found: WorkerStatus, as_json: bool) -> None:
    from yr_fastload_native.cli.members import members

    directory = found.etcd_address or found.metastore_address
    workers = members(found)
    if as_json:
        told = [
            {
                "address": each.address,
                "ready": each.is_ready,
                "reachable": each.is_reachable,
                "here": each.address == found.address,
                "pool": _facts_of(each.pool),
                "seen_s": round(each.seen_s, 1),
            }
            for each in workers
        ]
        pool = next((each["pool"] for each in told if each["here"]), None)
        click.echo(json.dumps({"directory": directory, "workers": told, "pool": pool}))
        return
    count = sum(each.is_ready for each in workers)
    click.echo(f"{count} workers are ready, says the directory at {directory}")
    for each in workers:
        notes = [*_notes(each), *(["this machine's"] if each.address == found.address else [])]
        click.echo(f"  {each.address}  {', '.join(notes)}")


def _facts_of(pool: Pool | None) -> dict[str, int] | None:
    return None if pool is None else {"used_bytes": pool.used, "free_bytes": pool.free, "bytes": pool.size}


def _notes(member: Member) -> Iterator[str]:
    if not member.is_ready:
        yield f"gone: was ready {member.seen_s:.0f} s ago"
    if not member.is_reachable:
        yield "cannot be reached from here"
    elif member.pool is None:
        yield "its machine does not say how full its pool is"
    else:
        yield f"{member.pool.used >> 20} of {member.pool.size >> 20} MiB are used, {member.pool.free >> 20} free"


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
                "etcd_address": status.etcd_address,
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
        if status.address.rpartition(":")[0] != "127.0.0.1":
            cluster = f"--etcd {status.etcd_address}" if status.etcd_address else f"--join {_head_of(status)}"
            click.echo(f"more machines  yr-fastload worker start --address HOST:PORT {cluster}")


def _head_of(status: WorkerStatus) -> str:
    """Address of the head's worker, whose port is the one below the metastore's."""
    host, _, port = status.metastore_address.rpartition(":")
    return f"{host}:{int(port) - 1}"
