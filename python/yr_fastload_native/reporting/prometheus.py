"""Prometheus metrics of what this process loaded and published.

They are counted in the default registry once the process has imported ``prometheus_client``; a process that does not
use it pays nothing. vLLM uses it in every process; with ``PROMETHEUS_MULTIPROC_DIR`` set, its server's ``/metrics``
includes the counts of all its ranks. Nothing here can make a load or a publish fail.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.process.poller import Poller
from yr_fastload_native.reporting.load_report import LoadReport

__all__ = ["Metrics", "count", "counted"]

_log = logging.getLogger(__name__)
_Function = TypeVar("_Function", bound=Callable[..., Any])

_OK = "OK"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SOURCES = (1, 2, 4, 8, 16, 32)


class _Published(Protocol):
    """What is counted of a publication."""

    @property
    def bytes(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def lease_age_s(self) -> float: ...
    @property
    def trouble(self) -> str: ...
    def __hash__(self) -> int: ...


class Metrics:
    """The metrics, in the default registry of ``prometheus_client``."""

    def __init__(self, prometheus: Any) -> None:
        counter, histogram = prometheus.Counter, prometheus.Histogram
        self.loads = counter(
            "yr_fastload_loads",
            "Loads, by transport (empty: none) and outcome (OK or a code).",
            ["transport", "outcome"],
        )
        self.loaded_bytes = counter("yr_fastload_loaded_bytes", "Bytes of weights that were pulled.", ["transport"])
        self.load_seconds = histogram(
            "yr_fastload_load_seconds", "Wall time of loads that succeeded.", ["transport"], buckets=_SECONDS
        )
        self.stage_seconds = counter(
            "yr_fastload_load_stage_seconds", "Seconds of these loads by stage, summed over threads.", ["stage"]
        )
        self.chunks_retried = counter("yr_fastload_chunks_retried", "Chunks that were requested again.")
        self.sources = histogram("yr_fastload_load_sources", "Sources that a load was given.", buckets=_SOURCES)
        self.publications = counter("yr_fastload_publications", "Publications, by outcome.", ["outcome"])
        self.published_bytes = counter("yr_fastload_published_bytes", "Bytes of weights that were published.")
        self.fallbacks = counter("yr_fastload_fallbacks", "Models that vLLM read from disk, by error code.", ["reason"])
        self._leases = _Leases(
            prometheus.Gauge(
                "yr_fastload_leases", "Identities that this process keeps published.", multiprocess_mode="livesum"
            ),
            prometheus.Gauge(
                "yr_fastload_lease_age_seconds",
                "Longest time since one of their leases was renewed.",
                multiprocess_mode="livemax",
            ),
            prometheus.Gauge(
                "yr_fastload_leases_in_trouble",
                "Of these identities, those whose lease was not renewed when that was tried last, or that were lost.",
                multiprocess_mode="livesum",
            ),
        )

    def loaded(self, report: LoadReport) -> None:
        self.loads.labels(report.transport, _OK).inc()
        self.loaded_bytes.labels(report.transport).inc(report.bytes)
        self.load_seconds.labels(report.transport).observe(report.seconds)
        for stage, seconds in report.stages.items():
            self.stage_seconds.labels(stage).inc(seconds)
        self.chunks_retried.inc(report.chunks_retried)
        self.sources.observe(len({each["source"] for step in report.steps for each in step["sources"]}) or 1)

    def load_failed(self, code: str) -> None:
        self.loads.labels("", code).inc()

    def published(self, publication: _Published) -> None:
        self.publications.labels(_OK).inc()
        self.published_bytes.inc(publication.bytes)

    def kept(self, publication: _Published) -> None:
        self._leases.watch(publication)

    def publish_failed(self, code: str) -> None:
        self.publications.labels(code).inc()


class _Leases:
    """Watches this process's leases and sets three gauges."""

    def __init__(self, number: Any, age: Any, trouble: Any) -> None:
        self._number, self._age, self._trouble = number, age, trouble
        self._publications: weakref.WeakSet[_Published] = weakref.WeakSet()
        self._guard: Poller | None = None
        self._pid = 0

    def watch(self, publication: _Published) -> None:
        self._publications.add(publication)
        if self._guard is None or self._pid != os.getpid():  # a fork has no threads
            self._guard, self._pid = Poller(self._look), os.getpid()

    def _look(self) -> bool:
        states = {each: each.state for each in list(self._publications)}
        self._number.set(sum(state == "live" for state in states.values()))
        self._trouble.set(sum(state == "lost" or each.trouble != "" for each, state in states.items()))
        self._age.set(
            max((each.lease_age_s for each, state in states.items() if state in ("live", "lost")), default=0.0)
        )
        return True


_lock = threading.Lock()
_made: Metrics | None = None
_broken = False


def count(what: Callable[[Metrics], object]) -> None:
    """Count something, if this process uses Prometheus."""
    global _made, _broken
    prometheus = sys.modules.get("prometheus_client")
    if prometheus is None or _broken:
        return
    try:
        with _lock:
            if _made is None:
                _made = Metrics(prometheus)
        what(_made)
    except Exception as error:
        _broken = True
        _log.warning("Prometheus metrics are off from now on: %s", error)


def counted(
    done: Callable[[Metrics, Any], object], failed: Callable[[Metrics, str], object]
) -> Callable[[_Function], _Function]:
    """Wrap a function that returns something or fails with a typed error.

    Args:
        done: Counts a result.
        failed: Counts an error's code.
    """

    def wrap(function: _Function) -> _Function:
        @functools.wraps(function)
        def counting(*args: Any, **kwargs: Any) -> Any:
            try:
                result = function(*args, **kwargs)
            except FastLoadError as error:
                code = error.code
                count(lambda metrics: failed(metrics, code))
                raise
            count(lambda metrics: done(metrics, result))
            return result

        return counting  # type: ignore[return-value]

    return wrap
