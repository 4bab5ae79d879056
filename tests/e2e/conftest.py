"""Real vLLM instances on the CPU. Without vLLM in the environment none of these tests is collected."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .instances import ForkServers, Instance, Instances

LONGEST = ("test_vllm_template.py", "test_vllm_caches.py", "test_vllm_share.py")

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: those of a file run one after the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def environment_of_vllm() -> Iterator[dict[str, str]]:
    """What instances find in theirs; of their sockets, some are left where one is killed."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp") as sockets:
        yield {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_RPC_BASE_PATH": sockets,
        }


@pytest.fixture(scope="session")
def servers(environment_of_vllm: dict[str, str]) -> Iterator[ForkServers]:
    with contextlib.ExitStack() as stack:
        yield ForkServers(stack, environment_of_vllm)


@pytest.fixture
def start(worker: str, tmp_path: Path, servers: ForkServers) -> Iterator[Callable[..., Instance]]:
    """Starts instances; they end with the test."""
    with Instances(servers, worker, tmp_path) as instances:
        yield instances.start


@pytest.fixture(scope="session")
def publisher(
    worker: str, tmp_path_factory: pytest.TempPathFactory, servers: ForkServers
) -> Iterator[Callable[..., Instance]]:
    """The instance that was the first to load a model with these settings, and publishes it to the end."""
    with Instances(servers, worker, tmp_path_factory.mktemp("publishers")) as instances:
        started: dict[str, Instance] = {}

        def first(model: Path, **settings: Any) -> Instance:
            key = repr((model, sorted(settings.items())))
            if key not in started:
                started[key] = instances.start(model, **settings)
                started[key].wait_until_published()
            return started[key]

        yield first


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes tiny models, each once; a copy of its own for every test that changes one."""
    from yr_fastload_native.checkpoints.tiny_vllm import Size
    from yr_fastload_native.checkpoints.tiny_vllm import make as make_tiny

    made: dict[tuple[str, int, int], Path] = {}

    def model(architecture: str, seed: int = 0, vocabulary: int = 0) -> Path:
        key = (architecture, seed, vocabulary)
        if key not in made:
            directory = tmp_path_factory.mktemp("models") / "-".join(map(str, key)) / "tiny"
            size = Size(vocabulary=vocabulary) if vocabulary else None
            made[key] = make_tiny(directory, architecture, size=size, seed=seed)
        return made[key]

    return model
