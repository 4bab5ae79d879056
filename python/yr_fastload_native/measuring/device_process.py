"""A process of ``yr-fastload bench --transport d2d|staged``: one that publishes, or one that loads.

The baseline is the method of openYuanrong's vLLM sample: one key a parameter, the Python `HeteroClient`, one call for
all of them. It uses the same worker, the same devices and the same tensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from yr_fastload_native import _core, sim
from yr_fastload_native.checkpoints.workloads import sizes_of
from yr_fastload_native.errors import IntegrityError, UnavailableError
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.measuring.child_process import Parent, main
from yr_fastload_native.measuring.device_tensors import Arrays, DeviceTensors, made
from yr_fastload_native.measuring.moves import Move
from yr_fastload_native.settings import parse_address

__all__ = ["Plan"]

_BASELINE_TIMEOUT_MS = 60_000
_MATRIX = 384
_REPORTED = ("bytes", "tensors", "chunks", "transport", "stages", "steps", "verified")


@attrs.frozen(kw_only=True)
class Plan(Move):
    """What all processes work on.

    Attributes:
        shapes: A workload of `sizes_of`.
        scale: Of the shapes: 1.0 is the model's own size.
    """

    shapes: str
    scale: float

    def at(self, worker: str) -> Plan:
        """The same, with that worker."""
        return attrs.evolve(self, worker=worker)

    def sizes(self) -> Mapping[str, int]:
        """Names and bytes of the tensors."""
        return sizes_of(self.shapes, self.scale)


def _arrays(plan: Plan, seed: int | None) -> Arrays:
    """One block for each tensor: random bytes, or zeros that are backed by memory."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name, size in plan.sizes().items():
        if seed is None:
            arrays[name] = np.full(size, 0xA5, np.uint8)
        else:  # words are drawn four times as fast as bytes
            arrays[name] = random.integers(0, 1 << 64, -(-size // 8), np.uint64).view(np.uint8)[:size]
    return arrays


class _Baseline:
    """One key a parameter, through openYuanrong's own Python client."""

    def __init__(self, worker: str, device: int) -> None:
        from yr.datasystem.hetero_client import HeteroClient

        host, port = parse_address(worker, op="bench")
        self._device = device
        _core.acl_device(device)  # from now on this thread's device
        self._client = HeteroClient(host, port)
        self._client.init()

    def _blobs(self, tensors: DeviceTensors) -> list[Any]:
        from yr.datasystem.hetero_client import Blob, DeviceBlobList

        return [DeviceBlobList(self._device, [Blob(*place)]) for place in tensors.places]

    def publish(self, tensors: DeviceTensors, run: str) -> float:
        keys, blobs = [f"{run}-{i}" for i in range(len(tensors.places))], self._blobs(tensors)
        started = time.perf_counter()
        failed = self._client.dev_mset(keys, blobs)
        return self._done(started, failed)

    def load(self, tensors: DeviceTensors, run: str) -> float:
        keys, blobs = [f"{run}-{i}" for i in range(len(tensors.places))], self._blobs(tensors)
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


def _told(task: Mapping[str, Any]) -> tuple[Plan, int, bool]:
    """The plan, the device of this process, and whether it serves what it has loaded."""
    return Plan(**task["plan"]), task["device"], task["hold"]


def _source(task: Mapping[str, Any], parent: Parent) -> None:
    """Publish, as often as told, in both ways."""
    plan, device, _ = _told(task)
    mine = made(device, _arrays(plan, 1))
    baseline: _Baseline | None = None
    held: list[Any] = []
    with FastLoader(plan.config(hold=True, device=device)) as loader:
        parent.send("ready", pid=os.getpid(), addresses=[address for address, _ in mine.places])
        while (message := parent.wait()) is not None:
            run = message["run"]
            if message["do"] == "publish":
                started = time.perf_counter()
                publication = loader.publish(mine.tensors, {"bench": run})
                if not publication.wait_settled(plan.deadline_s):
                    why = publication.failure or publication.state
                    raise UnavailableError(f"the publication did not settle: {why}", op="bench")
                held.append(publication)
                parent.send("done", seconds=publication.seconds, settled_s=time.perf_counter() - started)
            elif message["do"] == "withdraw":
                held.pop().close()
                parent.send("done")
            elif message["do"] == "work":
                parent.send("done", rate=_work(message["seconds"]))
            elif message["do"] == "counters":
                parent.send("done", sent=sum(sim.counters()["sent_bytes"].values()) if sim.active() else None)
            elif message["do"] == "baseline":
                baseline = baseline or _Baseline(plan.worker, device)
                parent.send("done", seconds=baseline.publish(mine, run))
            elif message["do"] == "baseline-withdraw":
                assert baseline is not None
                baseline.withdraw(len(mine.places), run)
                parent.send("done")


def _reader(task: Mapping[str, Any], parent: Parent) -> None:
    """Load, as often as told, in both ways, and compare every byte."""
    plan, device, hold = _told(task)
    wanted, mine = _arrays(plan, 1), made(device, _arrays(plan, None))
    baseline: _Baseline | None = None

    def check(seconds: float, **more: Any) -> None:
        different = mine.differing(wanted)
        if different:
            raise IntegrityError(f"{len(different)} tensors differ from the source", op="bench", failed_keys=different)
        if not hold:  # who holds serves them to others
            mine.blank()
        parent.send("done", seconds=seconds, **more)

    with FastLoader(plan.config(hold=hold, device=device)) as loader:
        parent.send("ready")
        while (message := parent.wait()) is not None:
            run = message["run"]
            if message["do"] == "load":
                report = loader.load(mine.tensors, {"bench": run})
                spans = [attrs.astuple(span) for span in report.spans]
                check(report.seconds, **{key: report.to_dict()[key] for key in _REPORTED}, spans=spans)
            elif message["do"] == "load for":
                end, loads = time.monotonic() + message["seconds"], 0
                while time.monotonic() < end:
                    seconds = loader.load(mine.tensors, {"bench": run}).seconds
                    loads += 1
                check(seconds, loads=loads)
            elif message["do"] == "raw for":
                end, copies = time.monotonic() + message["seconds"], 0
                while time.monotonic() < end:
                    seconds = mine.raw_copy_s(message["pid"], message["addresses"], wanted)
                    copies += 1
                check(seconds, loads=copies)
            elif message["do"] == "raw":
                check(mine.raw_copy_s(message["pid"], message["addresses"], wanted))
            elif message["do"] == "baseline":
                baseline = baseline or _Baseline(plan.worker, device)
                check(baseline.load(mine, run))


if __name__ == "__main__":
    main({"source": _source, "reader": _reader})
