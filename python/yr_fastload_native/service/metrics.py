"""The answer to ``GET /metrics``: the state of a fleet, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from yr_fastload_native.service.fleet import Fleet
from yr_fastload_native.service.instance import State

__all__ = ["ServiceMetrics"]


class ServiceMetrics:
    """Metrics of a fleet at the time of the request."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        instances = list(self._fleet.instances.values())
        states = GaugeMetricFamily("yr_fastload_instances", "Instances by state.", labels=["state"])
        count = Counter(each.state for each in instances)
        for state in get_args(State):
            states.add_metric([state], count[state])
        yield states
        of_each = ["instance"]
        seconds = GaugeMetricFamily(
            "yr_fastload_instance_load_seconds", "Time to load the weights.", labels=[*of_each, "source"]
        )
        loaded = GaugeMetricFamily("yr_fastload_instance_load_bytes", "Weights of all ranks.", labels=of_each)
        ready = GaugeMetricFamily("yr_fastload_instance_ready_seconds", "Time from launch to ready.", labels=of_each)
        phases = GaugeMetricFamily(
            "yr_fastload_instance_phase_seconds", "Time that a phase of its start took.", labels=[*of_each, "phase"]
        )
        in_flight = GaugeMetricFamily("yr_fastload_instance_requests_in_flight", "Requests in flight.", labels=of_each)
        served = CounterMetricFamily("yr_fastload_instance_requests", "Requests forwarded.", labels=of_each)
        restarts = CounterMetricFamily("yr_fastload_instance_restarts", "Restarts.", labels=of_each)
        trouble = GaugeMetricFamily(
            "yr_fastload_instance_lease_trouble",
            "Whether a lease of what it publishes was not renewed, or was lost.",
            labels=of_each,
        )
        for each in instances:
            if each.load is not None:
                seconds.add_metric([each.name, each.load.source], each.load.seconds)
                loaded.add_metric([each.name], each.load.bytes)
                trouble.add_metric([each.name], each.load.lease_trouble is not None)
            if each.ready_s is not None:
                ready.add_metric([each.name], each.ready_s)
            for phase in each.phases:
                phases.add_metric([each.name, phase.name], phase.seconds)
            in_flight.add_metric([each.name], each.in_flight)
            served.add_metric([each.name], each.served)
            restarts.add_metric([each.name], each.restarts)
        yield from (seconds, loaded, ready, phases, in_flight, served, restarts, trouble)
