"""``yr-fastload demo``: one process reads a model from disk; a second one pulls it and checks every byte."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import statistics
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import attrs
import click

from yr_fastload_native.cli import output
from yr_fastload_native.errors import IntegrityError, InvalidArgumentError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from yr_fastload_native.checkpoints.safetensors_files import StoredTensor

__all__ = ["demo"]

_DEFAULT_MB = 1024
_ROUNDS = 3
_MIB = 1 << 20
_GIB = 1 << 30


@click.command()
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of a safetensors checkpoint.  [default: one generated for the demo]",
)
@click.option(
    "--size-mb",
    type=click.IntRange(1, 1 << 20),
    help=f"Size of the generated checkpoint, MiB.  [default: {_DEFAULT_MB}]",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "d2d", "staged", "host"]),
    default="auto",
    show_default=True,
    help="How bytes move. d2d and staged move them between NPUs, simulated ones if there are none.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead of the table.")
def demo(model: Path | None, size_mb: int | None, transport: str, as_json: bool) -> None:
    """Watch a second process pull a model from a first instead of reading the disk.

    A first process loads a checkpoint, with the page cache dropped and with it warm, and publishes it. A second process
    pulls it into its own memory and then compares every byte with the files. The table compares the pull with the
    alternatives and with a plain memory copy, which limits all of them: the same number of threads, memory that is new
    to the process, medians of three. Dropping the page cache does not affect other caches: that of a virtual machine's
    host, or of the disk, can make a load faster than one from a disk that was never read.

    Without --model, a checkpoint with random weights and the tensors of Qwen2.5-7B, scaled down, is generated and
    removed afterwards. DS_WORKER_ADDR names the openYuanrong worker to use; without it a private one is started and
    stopped. It needs about three times the size of the checkpoint in memory. The exit status is 0 only if every byte
    agreed.
    """
    if model is not None and size_mb is not None:
        raise click.UsageError("--size-mb sets the size of a generated checkpoint; omit it with --model")
    with _leaving_in_order():
        record = _run(model, size_mb or _DEFAULT_MB, transport)
    output.emit(record, as_json=as_json, text=lambda: _table(record))
    if not record["verified"]:
        raise IntegrityError(
            f"{record['differing']} tensors differ from the files; please report it, with the output of --json",
            op="demo",
        )


def _run(model: Path | None, size_mb: int, transport: str) -> dict[str, Any]:
    from yr_fastload_native.checkpoints.safetensors_files import fingerprint, scan_directory
    from yr_fastload_native.checkpoints.synthetic import make_qwen2
    from yr_fastload_native.measuring.child_process import Process
    from yr_fastload_native.measuring.demo_process import Task
    from yr_fastload_native.measuring.resources import device_count, device_environment, private_worker, require_memory
    from yr_fastload_native.process.scratch import scratch
    from yr_fastload_native.settings import Config

    with contextlib.ExitStack() as stack:
        external = Config.worker_from_env()
        size = size_mb * _MIB if model is None else _total(scan_directory(model))
        require_memory(size, copies=2 if external else 3, op="demo")  # the source's, the reader's, a private worker's
        if model is None:
            directory = stack.enter_context(scratch("demo", sockets=False))
            with output.progress_bar("making a checkpoint", size_mb * _MIB) as progress:
                model = make_qwen2(directory / "qwen2", size_mb=size_mb, progress=progress)
        stored = scan_directory(model)
        total = _total(stored)
        if not total:
            raise InvalidArgumentError(f"{model} holds no bytes to load; name another checkpoint", op="demo")
        limit_s = 60 + total / (16 * _MIB)  # give up on anything slower than 16 MiB/s
        task = Task(
            directory=str(model.resolve()),
            worker=external or stack.enter_context(private_worker(total, output.note)),
            transport=transport,
            identity={
                "source": "demo",
                "model": model.resolve().name,
                "fingerprint": fingerprint(stored),
                "run": uuid.uuid4().hex,  # two demos on one worker never meet
            },
            deadline_s=limit_s,
            progress=sys.stderr.isatty(),
            rounds=_ROUNDS,
        )
        environment, simulated = device_environment(transport)
        environment.setdefault("YR_FASTLOAD_SIM_OPAQUE", "1")  # as real ones are
        if simulated:
            output.note("no NPU here: the processes use simulated ones")
        module = "yr_fastload_native.measuring.demo_process"
        source = stack.enter_context(Process("demo", module, "source", attrs.asdict(task), environment))
        loads: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": [], "pull": []}
        for _ in range(_ROUNDS):
            for kind, name in (("cold", "dropped"), ("warm", "warm")):
                with output.progress_bar(f"loading, page cache {name}", total) as progress:
                    loads[kind].append(source.expect(kind, limit_s, progress))
        with output.progress_bar("publishing", total) as progress:
            published = source.expect("published", limit_s, progress)
        output.note("published; a second process is pulling")
        second = attrs.evolve(task, device=1 % device_count(environment))
        reader = stack.enter_context(Process("demo", module, "reader", attrs.asdict(second), environment))
        for _ in range(_ROUNDS):
            with output.progress_bar("pulling", total) as progress:
                reader.expect("pulled", limit_s, progress)
            output.note("pulled; comparing every byte with the files")
            loads["pull"].append(reader.expect("compared", limit_s))
        source.end()  # frees memory for the destination of memcpy
        reader.tell("memcpy")
        memcpy = reader.expect("memcpy", limit_s)
        reader.end()
    samples = {kind: [load["seconds"] for load in found] for kind, found in loads.items()}
    cold_s, warm_s, load_s = (statistics.median(samples[kind]) for kind in ("cold", "warm", "pull"))
    pulled = loads["pull"][-1]
    differing = {name for load in loads["pull"] for name in load["differing"]}
    return {
        "transport": pulled["transport"],
        "bytes": pulled["bytes"],
        "tensors": pulled["tensors"],
        "chunks": pulled["chunks"],
        "rounds": _ROUNDS,
        "cold_s": cold_s,
        "warm_s": warm_s,
        "publish_s": published["seconds"],
        "load_s": load_s,
        "load_gib_per_s": pulled["bytes"] / _GIB / load_s,
        "memcpy_s": statistics.median(memcpy["fresh_s"]),
        "memcpy_gib_per_s": pulled["bytes"] / _GIB / memcpy["touched_s"],
        "speedup_cold": cold_s / load_s,
        "speedup_warm": warm_s / load_s,
        "seconds": samples | {"memcpy": memcpy["fresh_s"]},
        "verified": not differing,
        "differing": len(differing),
        "cold_cached_bytes": max(load["cached_bytes"] for load in loads["cold"]),
        "copy_threads": pulled["copy_threads"],
        "stages": pulled["stages"],
        "destination_memory": "fresh",
        "devices": "simulated" if simulated else "real" if transport in ("d2d", "staged") else "none",
        "model": task.identity["model"],
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
    }


def _total(stored: Mapping[str, StoredTensor]) -> int:
    return sum(tensor.nbytes for tensor in stored.values())


@contextlib.contextmanager
def _leaving_in_order() -> Iterator[None]:
    """Turn the first signal that ends a command into an exception; further ones must not interrupt the cleanup."""

    def leave(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _table(record: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group

    size = record["bytes"] / _GIB
    title = (
        f"{record['model']}: {record['tensors']} tensors, {size:.2f} GiB, into fresh memory, "
        f"{record['copy_threads']} threads, medians of {record['rounds']}"
    )
    table = output.table(title, "how a second process gets its weights", ">seconds", ">GiB/s", ">a pull is")
    for name, seconds in (
        ("from files that are not cached (page cache dropped)", record["cold_s"]),
        ("from files that are cached (page cache warm)", record["warm_s"]),
        (f"pulled from the first process ({record['transport']}), every byte checked", record["load_s"]),
        ("limit: a plain memory copy, nothing checked", record["memcpy_s"]),
    ):
        factor = "" if seconds == record["load_s"] else f"{seconds / record['load_s']:.2f}x as fast"
        table.add_row(name, f"{seconds:.3f}", f"{size / seconds:.2f}", factor)
    lines = ["devices: simulated, see docs/simulated-ascend.md"] if record["devices"] == "simulated" else []
    lines += [_verdict(record), f"the first process published them in {record['publish_s']:.3f} s, once"]
    lines += [f"verified: {'yes, every byte equals the files' if record['verified'] else 'no'}"]
    if record["cold_cached_bytes"]:
        share = record["cold_cached_bytes"] / record["bytes"]
        lines.append(f"note: {share:.0%} of the files stayed in the page cache, so the cold load was partly warm")
    return Group(table, *lines)


def _verdict(record: Mapping[str, Any]) -> str:
    """One line: whether the pull won here, and where pulls win."""
    if record["speedup_warm"] > 1:
        here = "the pull was the fastest"
    elif record["speedup_cold"] > 1:
        here = "the pull was faster than the disk, but not than the page cache"
    else:
        here = "the pull was not faster than this disk, perhaps because a layer below caches it"
    return (
        f"{here}; on one machine a warm page cache is memory too, so no pull beats it by much. Pulls win where files "
        "are not cached (new machines, network storage, little memory) and between NPUs"
    )
