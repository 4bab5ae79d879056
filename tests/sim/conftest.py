"""Processes with simulated devices around the session's worker."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # scripts and tests share modules beside them


@pytest.fixture(scope="session", autouse=True)
def one_fork_server():
    """The processes of all tests are forked from one, which ends with the tests."""
    yield
    from nodes import close_server

    close_server()


@pytest.fixture
def kind(request):
    """Of the devices: see `kinds`."""
    return getattr(request, "param", "ascend")


@pytest.fixture
def node(worker, tmp_path, kind):
    """Makes processes, each with a simulated device of its own; they end with the test."""
    from nodes import Node

    made = []

    def make(name, **environment):
        made.append(Node(worker, tmp_path, name, len(made) % 8, kind, **environment))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def model():
    return uuid.uuid4().hex
