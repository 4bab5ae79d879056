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
def node(worker, tmp_path, request):
    """Makes processes, each with a simulated device of its own; they end with the test.

    Its parameter, where a test has one, is the kind of devices.
    """
    from nodes import Node

    made, kind = [], getattr(request, "param", "ascend")

    def make(name, **environment):
        made.append(Node(worker, tmp_path, name, len(made) % 8, kind, **environment))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def model():
    return uuid.uuid4().hex
