"""Checked by mypy --strict, never run: the public names have the types that the documents promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yr_fastload_native as fl
from yr_fastload_native.testing import MemoryStore


def use(model: Any, tensors: dict[str, Any], identity: Mapping[str, Any]) -> float:
    config: fl.Config = fl.Config(worker="127.0.0.1:31501", transport="auto", deadline_s=5)
    with fl.LocalWorker(memory_mb=512) as worker, fl.FastLoader(fl.Config(worker=worker.address)) as loader:
        publication: fl.Publication = loader.publish(model, identity, progress=lambda done, total: None)
        report: fl.LoadReport = loader.load(tensors, identity, deadline_s=5.0)
        loader.load(tensors, identity, trusted_digests=[fl.content_digest(tensors, identity)])
        stages: Mapping[str, float] = report.stages
        stats: dict[str, Any] = loader.stats()
        publication.close()
    with fl.FastLoader(fl.Config(), store=MemoryStore()) as alone:
        address: str = alone.worker
    del config, stages, stats, address
    return report.gib_per_s


def handle(error: fl.FastLoadError) -> tuple[str, str, tuple[str, ...], bool]:
    return error.code, error.op, error.failed_keys, error.retryable


def families(error: fl.NotPublishedError, late: fl.TransferTimeoutError) -> tuple[LookupError, TimeoutError]:
    return error, late
