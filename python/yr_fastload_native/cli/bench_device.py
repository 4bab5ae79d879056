"""The processes behind ``yr-fastload bench --transport d2d|staged``, and what their parent makes of their figures.

The baseline is the method of openYuanrong's vLLM sample: one key a parameter, the Python `HeteroClient`, one call for
all of them. Both use the same worker, the same devices and the same tensors, and take turns in every round.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from yr_fastload_native import _core, sim
from yr_fastload_native.cli.child import Parent, Process, main
from yr_fastload_native.cli.measuring import ratio
from yr_fastload_native.cli.room import touch_memory
from yr_fastload_native.config import Config, parse_address
from yr_fastload_native.errors import DeviceError, IntegrityError, UnavailableError
from yr_fastload_native.loader import FastLoader
from yr_fastload_native.timeline import Span, breakdown, write_trace
from yr_fastload_native.workloads import sizes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[np.uint8]]

__all__ = ["Plan", "measure", "measure_fan_out", "measure_interference"]

_MODULE = "yr_fastload_native.cli.bench_device"
_STEP_S = 600.0
_GIB = 1 << 30
_IOV_MAX = 1024
_BASELINE_TIMEOUT_MS = 60_000
_MATRIX = 384


@attrs.frozen(kw_only=True)
class Plan:
    """What all processes work on.

    Attributes:
        shapes: A workload of `sizes_of`.
        scale: Of the shapes: 1.0 is the model's own size.
        chunk_bytes: As in the settings.
    """

    worker: str
    transport: str
    shapes: str
    scale: float
    deadline_s: float
    chunk_bytes: int = 0

    def at(self, worker: str) -> Plan:
        """The same, with that worker."""
        return attrs.evolve(self, worker=worker)

    def sizes(self) -> Mapping[str, int]:
        """Names and bytes of the tensors."""
        return sizes_of(self.shapes, self.scale)

    def config(self, *, hold: bool) -> Config:
        return Config(
            worker=self.worker,
            transport=self.transport,
            deadline_s=self.deadline_s,
            publish_deadline_s=self.deadline_s,
            chunk_bytes=self.chunk_bytes,
            hold=hold,
        )


def _arrays(plan: Plan, seed: int | None) -> Arrays:
    """One block for each tensor: random bytes, or zeros that are backed by memory."""
    random = np.random.default_rng(seed)
    made = {}
    for name, size in plan.sizes().items():
        if seed is None:
            made[name] = np.full(size, 0xA5, np.uint8)
        else:  # words are drawn four times as fast as bytes
            made[name] = random.integers(0, 1 << 64, -(-size // 8), np.uint64).view(np.uint8)[:size]
    return made


class _Baseline:
    """One key a parameter, through openYuanrong's own Python client."""

    def __init__(self, worker: str) -> None:
        from yr.datasystem.hetero_client import HeteroClient

        host, port = parse_address(worker, op="bench")
        _core.acl_device(0)  # this thread's device
        self._client = HeteroClient(host, port)
        self._client.init()

    @staticmethod
    def _blobs(arrays: Arrays) -> list[Any]:
        from yr.datasystem.hetero_client import Blob, DeviceBlobList

        return [DeviceBlobList(0, [Blob(value.ctypes.data, value.nbytes)]) for value in arrays.values()]

    def publish(self, arrays: Arrays, run: str) -> float:
        keys, blobs = [f"{run}-{i}" for i in range(len(arrays))], self._blobs(arrays)
        started = time.perf_counter()
        failed = self._client.dev_mset(keys, blobs)
        return self._done(started, failed)

    def load(self, arrays: Arrays, run: str) -> float:
        keys, blobs = [f"{run}-{i}" for i in range(len(arrays))], self._blobs(arrays)
        started = time.perf_counter()
        failed = self._client.dev_mget(keys, blobs, _BASELINE_TIMEOUT_MS)
        return self._done(started, failed)

    def withdraw(self, count: int, run: str) -> None:
        self._client.dev_local_delete([f"{run}-{i}" for i in range(count)])

    @staticmethod
    def _done(started: float, failed: list[str]) -> float:
        seconds = time.perf_counter() - started
        if failed:
            raise UnavailableError(f"the baseline failed for {len(failed)} keys", op="bench", failed_keys=failed[:3])
        return seconds


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _raw_copy_s(target: Arrays, pid: int, addresses: list[int]) -> float:
    """Copy all tensors from another process with process_vm_readv, at most 1,024 a call and 2 GiB at a time."""
    copy = ctypes.CDLL(None, use_errno=True).process_vm_readv
    copy.restype = ctypes.c_ssize_t
    sizes = [value.nbytes for value in target.values()]
    here = [(value.ctypes.data, value.nbytes) for value in target.values()]
    there = list(zip(addresses, sizes, strict=True))
    started = time.perf_counter()
    for first in range(0, len(sizes), _IOV_MAX):
        last = min(first + _IOV_MAX, len(sizes))
        while first < last:
            end, total = first, 0
            while end < last and total + sizes[end] < (1 << 31):
                total += sizes[end]
                end += 1
            local, remote = (
                (_Iovec * (end - first))(*(_Iovec(*pair) for pair in part[first:end])) for part in (here, there)
            )
            done = copy(pid, local, end - first, remote, end - first, 0)
            if done != total:
                raise DeviceError(f"process_vm_readv copied {done} of {total} bytes", op="bench")
            first = end
    return time.perf_counter() - started


def _work(seconds: float) -> float:
    """Products of two matrices a second, on one core: what a source does for its users."""
    import torch

    torch.set_num_threads(1)
    matrix = torch.rand(_MATRIX, _MATRIX)
    done, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        torch.mm(matrix, matrix)
        done += 1
    return done / took


def _source(task: Mapping[str, Any], parent: Parent) -> None:
    """Publish, as often as told, in both ways."""
    plan = Plan(**task)
    arrays = _arrays(plan, 1)
    baseline: _Baseline | None = None
    held: list[Any] = []
    with FastLoader(plan.config(hold=True)) as loader:
        parent.send("ready", pid=os.getpid(), addresses=[int(value.ctypes.data) for value in arrays.values()])
        while (message := parent.wait()) is not None:
            run = message["run"]
            if message["do"] == "publish":
                started = time.perf_counter()
                publication = loader.publish(arrays, {"bench": run})
                if not publication.wait_settled(plan.deadline_s):
                    raise UnavailableError(f"the publication did not settle: {publication.state}", op="bench")
                held.append(publication)
                parent.send("done", seconds=publication.seconds, settled_s=time.perf_counter() - started)
            elif message["do"] == "withdraw":
                held.pop().close()
                parent.send("done")
            elif message["do"] == "work":
                parent.send("done", rate=_work(message["seconds"]))
            elif message["do"] == "counters":
                parent.send("done", sent=sum(sim.counters()["sent_bytes"].values()))
            elif message["do"] == "baseline":
                baseline = baseline or _Baseline(plan.worker)
                parent.send("done", seconds=baseline.publish(arrays, run))
            elif message["do"] == "baseline-withdraw":
                assert baseline is not None
                baseline.withdraw(len(arrays), run)
                parent.send("done")


def _reader(task: Mapping[str, Any], parent: Parent) -> None:
    """Load, as often as told, in both ways, and compare every byte."""
    import torch

    hold = task["hold"]
    plan = Plan(**{name: value for name, value in task.items() if name != "hold"})
    wanted, arrays = _arrays(plan, 1), _arrays(plan, None)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    baseline: _Baseline | None = None

    def check(seconds: float, **more: Any) -> None:
        different = [name for name, value in arrays.items() if not np.array_equal(value, wanted[name])]
        if different:
            raise IntegrityError(f"{len(different)} tensors differ from the source", op="bench", failed_keys=different)
        if not hold:  # who holds serves them to others
            for value in arrays.values():
                value.fill(0xA5)
        parent.send("done", seconds=seconds, **more)

    with FastLoader(plan.config(hold=hold)) as loader:
        parent.send("ready")
        while (message := parent.wait()) is not None:
            run = message["run"]
            if message["do"] == "load":
                report = loader.load(tensors, {"bench": run})
                spans = [attrs.astuple(span) for span in report.spans]
                check(report.seconds, **{key: report.to_dict()[key] for key in _REPORTED}, spans=spans)
            elif message["do"] == "load for":
                end, loads = time.monotonic() + message["seconds"], 0
                while time.monotonic() < end:
                    seconds = loader.load(tensors, {"bench": run}).seconds
                    loads += 1
                check(seconds, loads=loads)
            elif message["do"] == "raw for":
                end, copies = time.monotonic() + message["seconds"], 0
                while time.monotonic() < end:
                    seconds = _raw_copy_s(arrays, message["pid"], message["addresses"])
                    copies += 1
                check(seconds, loads=copies)
            elif message["do"] == "raw":
                check(_raw_copy_s(arrays, message["pid"], message["addresses"]))
            elif message["do"] == "baseline":
                baseline = baseline or _Baseline(plan.worker)
                check(baseline.load(arrays, run))


_REPORTED = ("bytes", "tensors", "chunks", "transport", "stages", "steps", "verified")


def measure(
    plan: Plan,
    rounds: int,
    *,
    baseline: bool,
    readers: int,
    environment: Mapping[str, str],
    note: Callable[[str], None],
    trace: Path | None,
) -> dict[str, Any]:
    """Run the processes and time them against each other.

    Args:
        plan: What to move, and how.
        rounds: Repetitions; medians count. One more comes first and does not: it sets up what is set up once.
        baseline: Measure the method of one key a parameter too.
        readers: Readers that start together at the end, to see what the publisher sends; 0 leaves that out.
        environment: Of the processes.
        note: Says what goes on.
        trace: File for a trace of the first and the last load.

    Raises:
        IntegrityError: A load gave other bytes than the source has.
    """
    samples: dict[str, list[float]] = {
        key: [] for key in ("load", "publish", "settled", "raw", "baseline_load", "baseline_publish", "first_load")
    }
    task = attrs.asdict(plan)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Process("bench", _MODULE, "source", task, environment))
        memory = source.expect("ready", _STEP_S)
        reader = stack.enter_context(Process("bench", _MODULE, "reader", {**task, "hold": False}, environment))
        reader.expect("ready", _STEP_S)

        held = uuid.uuid4().hex
        _ask(source, "publish", held)
        first = report = _ask(reader, "load", held)
        samples["first_load"].append(report["seconds"])
        for turn in range(rounds + 1):
            note(f"round {turn} of {rounds}" if turn else "warming up")
            run = uuid.uuid4().hex
            published = _ask(source, "publish", run)
            figures = {"publish": published["seconds"], "settled": published["settled_s"]}
            _ask(source, "withdraw")
            report = _ask(reader, "load", held)
            figures["load"] = report["seconds"]
            figures["raw"] = _ask(reader, "raw", pid=memory["pid"], addresses=memory["addresses"])["seconds"]
            if baseline:
                figures["baseline_publish"] = _ask(source, "baseline", run)["seconds"]
                figures["baseline_load"] = _ask(reader, "baseline", run)["seconds"]
                _ask(source, "baseline-withdraw", run)
            if turn:
                for key, value in figures.items():
                    samples[key].append(value)
        reader.end()
        fan_out = _fan_out(plan, source, held, report["bytes"], readers, environment) if readers else None
        source.end()
    if trace is not None:
        write_trace(trace, [("the first load", _spans(first)), ("the last load", _spans(report))])
    return _record(report, samples, fan_out, rounds)


def measure_interference(
    plan: Plan, rounds: int, seconds: float, *, environment: Mapping[str, str], note: Callable[[str], None]
) -> dict[str, Any]:
    """What a source's own work, on one core, loses while a reader loads from it over and over.

    Between simulated devices bytes are copied by cores, which source and reader may have to share. So it is compared
    with what the same work loses to a process that does nothing but copy the same bytes over and over.

    Args:
        plan: What to load.
        rounds: Repetitions.
        seconds: Of each measurement.
        environment: Of the processes.
        note: Says what goes on.
    """
    task, run = attrs.asdict(plan), uuid.uuid4().hex
    rates: dict[str, list[float]] = {"alone": [], "beside loads": [], "beside copies": []}
    loads = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Process("bench", _MODULE, "source", task, environment))
        memory = source.expect("ready", _STEP_S)
        reader = stack.enter_context(Process("bench", _MODULE, "reader", {**task, "hold": False}, environment))
        reader.expect("ready", _STEP_S)
        _ask(source, "publish", run)
        where = {"pid": memory["pid"], "addresses": memory["addresses"]}
        for turn in range(rounds + 1):
            note(f"work beside a reader: round {turn} of {rounds}" if turn else "work beside a reader: warming up")
            found = {"alone": _ask(source, "work", run, seconds=seconds)["rate"]}
            for name, do in (("beside loads", "load for"), ("beside copies", "raw for")):
                reader.tell({"do": do, "run": run, "seconds": seconds, **where})
                found[name] = _ask(source, "work", run, seconds=seconds)["rate"]
                count = reader.expect("done", _STEP_S)["loads"]
                loads += count if turn and do == "load for" else 0
            if turn:
                for name, rate in found.items():
                    rates[name].append(rate)
        reader.end()
        source.end()
    return {
        "products_per_s": rates,
        "loads": loads,
        "slow_down": 1 - ratio(rates["beside loads"], rates["alone"]),
        "slow_down_by_copies": 1 - ratio(rates["beside copies"], rates["alone"]),
        "slow_down_beyond_copies": 1 - ratio(rates["beside loads"], rates["beside copies"]),
        "verified": True,
    }


def measure_fan_out(
    plan: Plan,
    readers: Sequence[int],
    rounds: int,
    *,
    environment: Mapping[str, str],
    note: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Readers that start together and serve each other: what each waits, and what the publisher sends.

    Args:
        plan: What to load.
        readers: How many, one entry of the result each.
        rounds: Repetitions; medians count.
        environment: Of the processes.
        note: Says what goes on.
    """
    found = []
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(Process("bench", _MODULE, "source", attrs.asdict(plan), environment))
        source.expect("ready", _STEP_S)
        for count in readers:
            note(f"{count} readers together")
            runs = []
            for _ in range(rounds):
                run = uuid.uuid4().hex
                _ask(source, "publish", run)
                runs.append(_fan_out(plan, source, run, sum(plan.sizes().values()), count, environment))
                _ask(source, "withdraw")
            medians = {key: statistics.median(run[key] for run in runs) for key in ("publisher_sent_ratio", "wall_s")}
            slowest = statistics.median(run["load_s"][-1] for run in runs)
            found.append({"readers": count, **medians, "slowest_load_s": slowest})
        source.end()
    return found


def _ask(process: Process, do: str, run: str = "", **more: Any) -> dict[str, Any]:
    process.tell({"do": do, "run": run, **more})
    return process.expect("done", _STEP_S)


def _spans(report: Mapping[str, Any]) -> list[Span]:
    return [Span(*span) for span in report["spans"]]


def _fan_out(
    plan: Plan,
    source: Process,
    held: str,
    size: int,
    readers: int,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """Readers that start together, each of which serves others: what does the publisher send?"""
    touch_memory(size)
    before = _ask(source, "counters")["sent"]
    task = {**attrs.asdict(plan), "hold": True}
    with contextlib.ExitStack() as stack:
        each = [stack.enter_context(Process("bench", _MODULE, "reader", task, environment)) for _ in range(readers)]
        for process in each:
            process.expect("ready", _STEP_S)
        started = time.perf_counter()
        for process in each:
            process.tell({"do": "load", "run": held})
        seconds = [process.expect("done", _STEP_S)["seconds"] for process in each]
        wall = time.perf_counter() - started
        sent = _ask(source, "counters")["sent"] - before
        for process in each:
            process.end()
    return {"readers": readers, "publisher_sent_ratio": sent / size, "load_s": sorted(seconds), "wall_s": wall}


def _record(
    report: Mapping[str, Any], samples: dict[str, list[float]], fan_out: dict[str, Any] | None, rounds: int
) -> dict[str, Any]:
    def median(key: str) -> float:
        return statistics.median(samples[key])

    size = report["bytes"] / _GIB
    record: dict[str, Any] = {
        "transport": report["transport"],
        "bytes": report["bytes"],
        "tensors": report["tensors"],
        "chunks": report["chunks"],
        "rounds": rounds,
        "load_s": median("load"),
        "first_load_s": median("first_load"),
        "publish_s": median("publish"),
        "settled_s": median("settled"),
        "raw_copy_s": median("raw"),
        "raw_copy_gib_per_s": size / median("raw"),
        "load_gib_per_s": size / median("load"),
        "raw_share": ratio(samples["raw"], samples["load"]),
        "verified": bool(report["verified"]),
        "stages": report["stages"],
        "breakdown": breakdown(_spans(report)),
        "seconds": {key: sorted(values) for key, values in samples.items() if values},
    }
    if samples["baseline_load"]:
        over = [load - raw for load, raw in zip(samples["load"], samples["raw"], strict=True)]
        base_over = [load - raw for load, raw in zip(samples["baseline_load"], samples["raw"], strict=True)]
        record |= {
            "baseline": {"load_s": median("baseline_load"), "publish_s": median("baseline_publish")},
            "speedup_load": ratio(samples["baseline_load"], samples["load"]),
            "speedup_publish": ratio(samples["baseline_publish"], samples["publish"]),
            "overhead_ratio": statistics.median(over) / statistics.median(base_over),
        }
    if fan_out is not None:
        record["fan_out"] = fan_out
    return record


if __name__ == "__main__":
    main({"source": _source, "reader": _reader})
