"""Fixtures of the tests of the service, and of those of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .service import Service
from .worker_homes import home, running, user  # noqa: F401


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    services = []

    def start(mode: str = "well", **limits: object) -> Service:
        services.append(Service(tmp_path, mode, limits=limits))
        return services[-1]

    yield start
    for service in services:
        service.end()
