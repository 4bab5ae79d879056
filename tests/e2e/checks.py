"""What instances say of their loads."""

from __future__ import annotations

from typing import Any


def assert_cold(instance: Any, fallback: str | None = "NOT_PUBLISHED") -> None:
    assert instance.loaded["fallback"] == fallback
    assert instance.loaded["cold_load_s"] > 0
    assert instance.loaded["transport"] is None


def assert_pulled(instance: Any, transport: str, ranks: int = 1) -> None:
    assert len(instance.events("loaded")) == ranks
    for each in instance.events("loaded"):
        assert each["fallback"] is None
        assert each["cold_load_s"] is None  # nothing was read from disk
        assert each["transport"] == transport
        assert each["bytes"] > 0
