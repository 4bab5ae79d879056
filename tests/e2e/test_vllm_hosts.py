"""Real vLLM on three hosts, which `yr-fastload serve` starts through Ray: each pulls from another one.

The cluster is made by the commands of docs/cluster.md. Hosts are network namespaces with names of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chaos.hosts.bed import Bed, Host
from chaos.hosts.namespace import move_to
from chaos.hosts.namespaces import why_not

from yr_fastload_native.checkpoints.tiny_vllm import Size, make
from yr_fastload_native.measuring.service_process import ServiceProcess
from yr_fastload_native.worker.keys import make_curve_keys

from ..waiting import wait_until

RAY = Path(__file__).parents[2] / "build" / "ray"  # where `make test-all` puts it: vLLM would import it everywhere
RAY_PORT, WORKER_PORT = 6379, 31501
SIZE_MB = 64
TEST_S = 900
NOTICED_S = 60.0
VLLM = ("--max-model-len", "128", "--enforce-eager", "--seed", "0", "--served-model-name", "tiny")
NAMED = 'hostname "$0" && exec "$@"'

pytestmark = [
    pytest.mark.long,
    pytest.mark.worker,
    pytest.mark.timeout(TEST_S),
    pytest.mark.skipif(not (RAY / "ray").is_dir() and not importlib.util.find_spec("ray"), reason=f"no Ray in {RAY}"),
]


def name_of(host: Host) -> str:
    """That processes of it call it by."""
    return f"host-{host.number}"


class Cluster:
    """Hosts with a worker and a Ray node each, and the environment of what runs there.

    Args:
        bed: Without workers.
        directory: For keys and logs.
        environment: Of processes with vLLM.
        ray_files: A directory whose path leaves room for the names of Ray's sockets.
    """

    def __init__(self, bed: Bed, directory: Path, environment: dict[str, str], ray_files: str) -> None:
        self.hosts = bed.hosts
        self._keys = str(make_curve_keys(directory / "keys"))
        self.environment = {
            **environment,
            "PYTHONPATH": os.pathsep.join([str(RAY), os.environ.get("PYTHONPATH", "")]),
            "RAY_ADDRESS": f"{bed.hosts[0].address}:{RAY_PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": ray_files,
            "YR_FASTLOAD_CURVE_KEY_DIR": self._keys,
        }
        self.environment.pop("DS_WORKER_ADDR", None)
        for host in self.hosts:
            self.start_worker(host)
        for host in self.hosts:
            self._start_ray(bed, host)

    def start_worker(self, host: Host) -> dict[str, Any]:
        """By one of the two commands."""
        head = self.hosts[0]
        place = ["--head"] if host is head else ["--join", head.worker]
        words = ["worker", "start", "--address", host.worker, *place, "--curve-key-dir", self._keys]
        more = ["--memory-mb", "512", "--home", str(host.home), "--json"]
        told: dict[str, Any] = json.loads(host.run(sys.executable, "-m", "yr_fastload_native", *words, *more))
        return told

    def _start_ray(self, bed: Bed, host: Host) -> None:
        role = ["--head", "--port", str(RAY_PORT), "--include-dashboard", "false"]
        if host is not self.hosts[0]:
            role = ["--address", self.environment["RAY_ADDRESS"]]
        size = ["--num-cpus", "1", "--object-store-memory", str(80 << 20), "--disable-usage-stats", "--block"]
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--node-ip-address",
            host.address,
            *role,
            *size,
        ]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        named = ("unshare", "--uts", "sh", "-c", NAMED, name_of(host))
        bed.start_daemon(host, *named, *command, environment=environment)
        # One after the other: nodes of one machine would take the same names for their sockets.
        assert wait_until(lambda: "raylet" in [each.name() for each in host.processes()], NOTICED_S)


@pytest.fixture
def cluster(environment_of_vllm: dict[str, str], tmp_path: Path) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp", ignore_cleanup_errors=True) as files, Bed(3) as bed:
        yield Cluster(bed, tmp_path, environment_of_vllm, files)


@pytest.fixture
def on_the_first(cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Calls something from the first host, whose service nobody else can reach."""
    with ThreadPoolExecutor(1, initializer=move_to, initargs=(cluster.hosts[0].name,)) as there:
        yield lambda call, *arguments: there.submit(call, *arguments).result()


def test_each_pulls_from_another(cluster: Cluster, on_the_first: Callable[..., Any], tmp_path: Path) -> None:
    model = make(tmp_path / "tiny", "qwen2", size=Size.of(SIZE_MB))
    on_the_first(serve_from_three, cluster, model, tmp_path)


def serve_from_three(cluster: Cluster, model: Path, logs: Path) -> None:
    arguments = ["--launcher", "ray", "--worker", f":{WORKER_PORT}", "--template", "off", "--logs", str(logs)]
    with ServiceProcess(model, [*arguments, "--", *VLLM], cluster.environment) as service:
        service.until_ready(lambda each: True, 1)
        assert wait_until(lambda: service.status()["instances"][0]["published"], NOTICED_S)
        received = [host.received_bytes() for host in cluster.hosts]
        for _ in range(2):
            service.scale_out()
        first, *others = service.status()["instances"]
        assert (first["load_source"], first["fallback"]) == ("disk", "NOT_PUBLISHED")
        assert [(each["load_source"], each["transport"]) for each in others] == [("instance", "host")] * 2, others
        assert {each["weights_from"] for each in others} == {first["host"]}
        places = {each["host"]: each for each in (first, *others)}
        assert places.keys() == {name_of(host) for host in cluster.hosts}
        for host, before in zip(cluster.hosts, received, strict=True):
            instance = places[name_of(host)]
            assert instance["url"].startswith(f"http://{host.address}:")
            assert instance is first or host.received_bytes() - before > instance["bytes"]
        assert len({service.complete(each, "tiny", "an instance", 8) for each in (first, *others)}) == 1
        lose_a_worker(service, cluster.hosts[-1])


def lose_a_worker(service: ServiceProcess, host: Host) -> None:
    """The instance there says that nobody finds what it holds."""

    def trouble() -> str | None:
        (instance,) = [each for each in service.status()["instances"] if each["host"] == name_of(host)]
        found: str | None = instance["lease_trouble"]
        return found

    assert trouble() is None
    host.kill_worker()
    assert wait_until(trouble, NOTICED_S)
