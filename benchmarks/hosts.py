"""``python -m benchmarks.hosts``: pulls between hosts, beside a plain stream between the same ones in the same minute.

Hosts are network namespaces, which need root and Debian's `iproute2`; with `iperf3` the stream is its. The last line of
the output is JSON with ratios alone, medians of the rounds: rates of one machine's memory say nothing about others.
How many cores a pull takes, as CPU seconds a second, tells which process keeps it from being as fast as a stream.
"""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click
from chaos.hosts.bed import Bed, Host
from chaos.hosts.namespaces import why_not
from chaos.hosts.stream import stream

from benchmarks.about import about
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.worker.memory import pool_flags

__all__ = ["measure"]

_MIB = 1 << 20
_ANSWER_S = 300.0
_SLOW_MBIT = 1000
_READERS = 3
_MODELS = 8  # that a pool has room for: each measurement has another, and what is freed is not always usable at once
_TOUCHED = 2  # how often a cluster is measured, the last time in memory that its pools had in use before


class _Cluster:
    """What is measured on one: each time other models."""

    def __init__(self, bed: Bed, size_mb: int) -> None:
        self._hosts = bed.hosts
        self._size_mb = size_mb
        self._source = bed.hosts[0].guest()
        self._readers = [host.guest() for host in bed.hosts[1:]]
        self._models: list[str] = []

    def withdraw(self) -> None:
        """Free what is in the pools, so that it is used again."""
        for model in self._models:
            self._source.call("withdraw", _ANSWER_S, model=model)
        self._models.clear()

    def _published(self) -> str:
        model = uuid.uuid4().hex
        self._models.append(model)
        answer = self._source.call("publish", _ANSWER_S, model=model, size_mb=self._size_mb)
        if "error" in answer:
            raise click.ClickException(answer["message"])
        return model

    def _finished(self, reader: Process) -> dict[str, float]:
        answer = reader.finish(_ANSWER_S)
        if not answer.get("equal"):
            raise click.ClickException(f"a load failed: {answer}")
        return answer

    def _start(self, reader: Process, model: str) -> None:
        reader.start("load", model=model, size_mb=self._size_mb, deadline_s=_ANSWER_S - 10, hold=False)

    def _loads(self, readers: list[Process], model: str) -> list[float]:
        """Seconds of each, all at once."""
        for reader in readers:
            self._start(reader, model)
        return [self._finished(reader)["seconds"] for reader in readers]

    def _against_stream(self, host: Host, reader: Process) -> tuple[float, dict[str, float]]:
        """The rate of a pull, relative to a stream's, and how many cores it takes.

        In each process, as CPU seconds a second, and in the busiest thread of the workers.
        """
        raw = stream(self._hosts[0], host, self._size_mb * _MIB)
        model, workers = self._published(), {"publisher's worker": self._hosts[0], "reader's worker": host}
        before = {name: each.thread_times() for name, each in workers.items()}
        self._start(reader, model)
        answer = self._finished(reader)
        cores = {"cores of the reader": answer["cpu_s"] / answer["seconds"]}
        for name, each in workers.items():
            taken = [seconds - before[name].get(thread, 0.0) for thread, seconds in each.thread_times().items()]
            cores[f"cores of the {name}"] = sum(taken) / answer["seconds"]
            cores[f"cores of the {name}, its busiest thread"] = max(taken) / answer["seconds"]
        return raw / answer["seconds"], cores

    def ratios(self) -> Iterator[tuple[str, float]]:
        first, *others = self._hosts
        readers = self._readers
        self._loads([readers[0]], self._published())  # memory that nobody has touched yet is slow
        self._loads([readers[0]], self._published())
        share, cores = self._against_stream(others[0], readers[0])
        yield "pull / stream, unthrottled", share
        yield from cores.items()
        model = self._published()
        (alone,) = self._loads([readers[1]], model)
        (again,) = self._loads([readers[1]], model)
        (local,) = self._loads([first.guest()], model)
        yield "second reader of a host / reader on the publisher's", local / again
        yield (
            "slowest of three hosts at once / one alone, seconds",
            max(self._loads(readers, self._published())) / alone,
        )
        for host in (first, others[0]):
            host.limit(_SLOW_MBIT)
        share, _ = self._against_stream(others[0], readers[0])
        yield "pull / stream, 1 Gbit/s", share
        for host in (first, others[0]):
            host.unlimit()


def measure(size_mb: int, rounds: int) -> dict[str, float]:
    """Ratios, by what they compare; medians.

    Args:
        size_mb: Of a model.
        rounds: How often each is measured.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for populate in (False, True):
            with Bed(1 + _READERS) as bed:
                bed.start_workers(_MODELS * size_mb, **pool_flags(populate=populate))
                cluster = _Cluster(bed, size_mb)
                for turn in range(_TOUCHED):
                    memory = ", memory used before" if turn else ", pool populated" if populate else ""
                    for name, ratio in cluster.ratios():
                        found[name + memory].append(ratio)
                        click.echo(f"{number}  {name}{memory}: {ratio:.3f}", err=True)
                    cluster.withdraw()
    return {name: round(statistics.median(ratios), 3) for name, ratios in found.items()}


@click.command()
@click.option("--size-mb", default=256, show_default=True, help="Of a model.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The same as a file of results.")
def main(size_mb: int, rounds: int, output: Path | None) -> None:
    """Measure pulls between hosts."""
    why = why_not()
    if why:
        sys.exit(f"there can be no hosts here: {why}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # hosts are taken down
    beside = "iperf3" if shutil.which("iperf3") else "a stream of Python's"
    measured = {"stream": beside, "size_mb": size_mb, "rounds": rounds, **measure(size_mb, rounds)}
    click.echo(json.dumps(measured))
    if output is not None:
        output.write_text(json.dumps({**about("benchmarks.hosts"), "results": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
