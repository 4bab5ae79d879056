"""Transports ``d2d`` and ``staged``: against one copy of the same bytes, and against one key per parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from yr_fastload_native.measuring.device import measure as measure_devices
from yr_fastload_native.measuring.device import measure_interference
from yr_fastload_native.measuring.device_process import Plan
from yr_fastload_native.measuring.resources import device_environment, private_worker, require_memory

__all__ = ["interference", "measure"]

_DEADLINE_S = 120.0
_WORK_S = 3.0


def measure(
    transport: str,
    workload: str,
    scale: float,
    rounds: int,
    note: Callable[[str], None],
    *,
    baseline: bool = False,
    readers: int = 0,
    chunk_bytes: int = 0,
) -> dict[str, Any]:
    """Time loads against their limit, and with ``baseline`` against the original method; every byte checked.

    Args:
        transport: ``d2d`` or ``staged``.
        workload: As in `sizes_of`.
        scale: Likewise.
        rounds: Repetitions, after one that does not count.
        note: Called with each step, for progress.
        baseline: One key per parameter through openYuanrong's Python client too (`d2d`).
        readers: This many start together at the end, to measure the publisher's traffic (`d2d`).
        chunk_bytes: As in the settings.
    """
    plan = Plan(
        worker="",
        transport=transport,
        shapes=workload,
        scale=scale,
        deadline_s=_DEADLINE_S,
        chunk_bytes=chunk_bytes,
    )
    total = sum(plan.sizes().values())
    require_memory(total, copies=3 + 2 * readers + (transport == "staged"), op="bench")
    environment, simulated = device_environment(transport)
    with private_worker(3 * total if transport == "staged" else 0) as worker:
        record = measure_devices(
            plan.at(worker),
            rounds,
            baseline=baseline,
            readers=readers,
            environment=environment,
            note=lambda text: note(f"{transport}, {workload}: {text}"),
            trace=None,
        )
    return {**record, "workload": workload, "scale": scale, "simulated": simulated}


def interference(workload: str, scale: float, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    """How much a source's own work on one core slows down while a reader pulls from it by ``d2d``."""
    plan = Plan(worker="", transport="d2d", shapes=workload, scale=scale, deadline_s=_DEADLINE_S)
    require_memory(sum(plan.sizes().values()), copies=3, op="bench")
    environment, simulated = device_environment("d2d")
    with private_worker(0) as worker:
        record = measure_interference(plan.at(worker), rounds, _WORK_S, environment=environment, note=note)
    return {**record, "workload": workload, "scale": scale, "simulated": simulated}
