"""Hosts for the tests of this folder, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chaos.hosts.bed import Bed
from chaos.hosts.namespaces import why_not


@pytest.fixture(scope="session")
def hosts_can_be_made() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def bed(hosts_can_be_made: None) -> Iterator[Bed]:
    """Three hosts, without workers."""
    with Bed(3) as made:
        yield made


@pytest.fixture(scope="module")
def cluster(hosts_can_be_made: None) -> Iterator[Bed]:
    """Three hosts with a worker each, that no test of the module may damage."""
    with Bed(3) as made:
        made.start_workers(1024)
        yield made
