"""What became of one load: for the log, for the report and for metrics."""

from __future__ import annotations

import logging
from typing import Any

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.reporting.load_report import LoadReport, size
from yr_fastload_native.reporting.prometheus import count
from yr_fastload_native.vllm import compat

__all__ = ["Outcome"]

_log = logging.getLogger("vllm.yr_fastload")


class Outcome:
    """Of one ``load_model``.

    Attributes:
        facts: What is reported of it.
    """

    def __init__(self, call: compat.Call, stage: str) -> None:
        self.facts: dict[str, Any] = {
            "prefix": call.prefix,
            "stage": stage,
            "transport": None,
            "bytes": 0,
            "pull_s": None,
            "cold_load_s": None,
            "waited_s": 0.0,  # for another instance to publish
            "publish_s": 0.0,  # the time by which publishing delayed this load
            "load_model_s": None,  # in total, including processing for the kernels
            "fallback": None,
            "published": "no",
            "checkpoint": None,  # what was read of one that is published
        }

    def fell_back(self, error: FastLoadError, reason: str, seconds: float) -> None:
        """Weights were not pulled, after so many seconds."""
        self.facts["fallback"] = error.code
        count(lambda metrics: metrics.fallbacks.labels(error.code).inc())
        self.facts["fallback_reason"] = reason
        _log.warning("weights were not pulled, reading from disk: %s: %s (after %.2f s)", error.code, reason, seconds)

    def pulled(self, report: LoadReport) -> None:
        self.facts.update(
            transport=report.transport,
            bytes=report.bytes,
            bytes_aliased=report.bytes_aliased,
            publisher=report.publisher,
            pull_s=report.seconds,
            transfer_s=report.seconds,
            stages=dict(report.stages),
            steps=report.steps,
        )
        sources = len({each["source"] for step in report.steps for each in step["sources"]}) or 1
        _log.info(
            "pulled %s in %.2f s (%.1f GiB/s, %s%s, %d source%s, %s)",
            size(report.bytes),
            report.seconds,
            report.gib_per_s,
            report.transport,
            ", not copied" if report.bytes_aliased == report.bytes else "",
            sources,
            "" if sources == 1 else "s",
            "verified" if report.verified else "not verified",
        )
