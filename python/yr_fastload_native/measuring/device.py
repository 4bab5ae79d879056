"""What ``yr-fastload bench --transport d2d|staged`` has its processes do, and makes of their figures.

Whatever is measured against the load takes turns with it in every round.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.errors import DeviceError
from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.device_process import Plan
from yr_fastload_native.measuring.resources import device_count, touch_memory
from yr_fastload_native.measuring.statistics import ratio
from yr_fastload_native.reporting.timeline import Span, breakdown, write_trace

__all__ = ["measure", "measure_fan_out", "measure_interference"]

_MODULE = "yr_fastload_native.measuring.device_process"
_STEP_S = 600.0
_GIB = 1 << 30


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
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_process("source", plan, environment))
        reader = stack.enter_context(_process("reader", plan, environment, device=1))
        memory = source.expect("ready", _STEP_S)
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
        fan_out = _fan_out(plan, source, held, report["bytes"], readers, environment) if readers else None
        _end(reader, source)
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
    run = uuid.uuid4().hex
    rates: dict[str, list[float]] = {"alone": [], "beside loads": [], "beside copies": []}
    loads = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_process("source", plan, environment))
        reader = stack.enter_context(_process("reader", plan, environment, device=1))
        memory = source.expect("ready", _STEP_S)
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
        _end(reader, source)
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
        source = stack.enter_context(_process("source", plan, environment))
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


def _process(role: str, plan: Plan, environment: Mapping[str, str], *, device: int = 0, hold: bool = False) -> Process:
    """Each on a device of its own, as far as there are some."""
    task = {"plan": attrs.asdict(plan), "device": device % device_count(environment), "hold": hold}
    return Process("bench", _MODULE, role, task, environment)


def _end(*processes: Process) -> None:
    """All at once: each takes a second to let go of openYuanrong."""
    for process in processes:
        process.tell_to_end()
    for process in processes:
        process.end()


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
    before = _sent(source)
    with contextlib.ExitStack() as stack:
        each = [
            stack.enter_context(_process("reader", plan, environment, device=1 + number, hold=True))
            for number in range(readers)
        ]
        for process in each:
            process.expect("ready", _STEP_S)
        started = time.perf_counter()
        for process in each:
            process.tell({"do": "load", "run": held})
        seconds = [process.expect("done", _STEP_S)["seconds"] for process in each]
        wall = time.perf_counter() - started
        sent = _sent(source) - before
        _end(*each)
    return {"readers": readers, "publisher_sent_ratio": sent / size, "load_s": sorted(seconds), "wall_s": wall}


def _sent(source: Process) -> int:
    """Bytes that it has sent so far.

    Raises:
        DeviceError: Its devices are real ones, which do not count them.
    """
    sent = _ask(source, "counters")["sent"]
    if sent is None:
        raise DeviceError("only simulated devices count what they send; leave --readers out", op="bench")
    return int(sent)


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
