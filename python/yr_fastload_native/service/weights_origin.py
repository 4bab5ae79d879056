"""Combines what an instance's ranks reported about their weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import attrs

__all__ = ["WeightsOrigin", "origin_of"]


@attrs.frozen
class WeightsOrigin:
    """How an instance got its weights.

    Attributes:
        source: ``disk`` if any rank read weights from disk.
        seconds: Time to pull or read them, in the slowest rank.
        bytes: Of all ranks; for weights from disk it is known once they are published.
        transport: How they arrived, ``checkpoint`` from a published one; None from disk.
        fallback: Why they did not come from a running instance, as an error code.
        published: Whether every rank has published what it read.
        host: The machine that it runs on, by its own name; None: it did not say.
        publisher_host: That of the instance that published the weights; None from disk.
        lease_trouble: Why what it publishes may not be found by others; None if nothing is wrong.
    """

    source: Literal["disk", "instance"]
    seconds: float
    bytes: int
    transport: str | None
    fallback: str | None
    published: bool
    host: str | None = None
    publisher_host: str | None = None
    lease_trouble: str | None = None


def origin_of(events: Sequence[dict[str, Any]]) -> WeightsOrigin | None:
    """Combine all ranks, distinguished by pid; None until one has loaded. A draft model counts with its target."""
    loaded = [event for event in events if event["event"] == "loaded"]
    if not loaded:
        return None
    loaded = [_as_arrived(event) for event in loaded]
    seconds: dict[int, float] = defaultdict(float)
    for event in loaded:
        seconds[event["pid"]] += event["cold_load_s"] or event["pull_s"] or 0.0
    published = [event for event in events if event["event"] == "published"]
    return WeightsOrigin(
        source="disk" if any(event["cold_load_s"] is not None for event in loaded) else "instance",
        seconds=max(seconds.values()),
        bytes=sum(event["bytes"] for event in loaded) or sum(event["bytes"] for event in published),
        transport=next((event["transport"] for event in loaded if event["transport"]), None),
        fallback=next((event["fallback"] for event in loaded if event["fallback"]), None),
        published={event["pid"] for event in published} >= set(seconds),
        host=next((event["host"] for event in loaded if event.get("host")), None),
        publisher_host=next((_host(event["publisher"]) for event in loaded if event.get("publisher")), None),
        lease_trouble=_trouble(events),
    )


def _trouble(events: Sequence[dict[str, Any]]) -> str | None:
    """By what each rank said last."""
    last = {event["pid"]: event["trouble"] for event in events if event["event"] == "leases"}
    return "; ".join(why for trouble in last.values() for why in trouble.values()) or None


def _host(publisher: str) -> str:
    """Of ``HOST:PROCESS``."""
    return publisher.rpartition(":")[0]


def _as_arrived(event: dict[str, Any]) -> dict[str, Any]:
    """What a rank reported; if it loaded a published checkpoint and nothing from files, that is its transport."""
    read = event.get("checkpoint")
    if not read or read["from_files"]:
        return event
    seconds = event["cold_load_s"]
    return {**event, "transport": "checkpoint", "bytes": read["bytes"], "cold_load_s": None, "pull_s": seconds}
