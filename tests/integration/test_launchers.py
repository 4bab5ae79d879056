"""Launchers that have instances elsewhere: Ray, on a cluster of one machine, and openYuanrong's SDK in its local mode.

Everything listens on loopback. Instances are stand-ins, as in `test_service`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

import yr_fastload_native.cli as cli
from yr_fastload_native.errors import ResourceExhaustedError
from yr_fastload_native.service.launcher import Order
from yr_fastload_native.service.local import LocalLauncher
from yr_fastload_native.service.machine import MachineDevices
from yr_fastload_native.service.vllm_server import VllmServer

from .service import WAIT_S, Service, lives, until

# Two of what Ray takes for NPUs; nothing outside loopback listens.
RAY = """
import ray, sys
ray.init("local", num_cpus=2, resources={"NPU": 2}, object_store_memory=80 << 20, include_dashboard=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
RAY_NODES = """
import sys
from ray.cluster_utils import Cluster
size = {"num_cpus": 1, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
nodes = [cluster.add_node(**size) for _ in range(2)]
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    print("gone", flush=True)
cluster.shutdown()
"""
ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ADDRESS": "",
    "LD_PRELOAD": "",  # a sanitizer's runtime is for the native core, which nobody here loads
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else it makes one, and a file for it in the home directory
}

Serve = Callable[..., Service]


@pytest.fixture(scope="module")
def ray_files() -> Iterator[dict[str, str]]:
    """Environment that has Ray keep its files in one place, whose path leaves room for the names of its sockets."""
    with tempfile.TemporaryDirectory(prefix="yrfl-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield {"RAY_TMPDIR": directory}


@pytest.fixture(scope="module")
def ray_address(ray_files: dict[str, str]) -> Iterator[str]:
    """Of a Ray for the whole module."""
    with subprocess.Popen(
        [sys.executable, "-c", RAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ON_LOOPBACK, **ray_files},
        start_new_session=True,
    ) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(WAIT_S)


@pytest.fixture
def serve(tmp_path: Path, ray_files: dict[str, str]) -> Iterator[Serve]:
    services = []

    def start(launcher: str, address: str = "", arguments: tuple[str, ...] = (), **limits: object) -> Service:
        services.append(
            Service(
                tmp_path,
                limits=limits,
                arguments=["--launcher", launcher, *arguments],
                environment={**ON_LOOPBACK, **ray_files, "RAY_ADDRESS": address, "YR_SERVER_ADDRESS": ""},
            )
        )
        return services[-1]

    yield start
    for service in services:
        service.end()


@pytest.fixture
def anywhere(launcher: str, request: pytest.FixtureRequest, serve: Serve) -> Callable[..., Service]:
    """Starts a service by a launcher."""
    address = request.getfixturevalue("ray_address") if launcher == "ray" else ""
    return lambda **limits: serve(launcher, address, **limits)


@pytest.mark.parametrize("launcher", ["ray", "yr"])
def test_out_in_and_again(anywhere: Callable[..., Service]) -> None:
    service = anywhere(instances=2)
    (first,) = service.until_ready(1)
    assert first["url"].startswith("http://127.0.0.1:")
    assert (first["load_source"], first["published"]) == ("disk", True)
    service.client.post("/scaleout")
    assert service.until_ready(2)[1]["load_source"] == "instance"
    pids = {service.client.post("/v1/x", json={}).headers["x-pid"] for _ in range(2)}
    assert pids == {str(pid) for pid in service.pids("starts")}
    assert service.client.post("/v1/y", json={"die": True}).status_code == 201  # by the other one
    until(lambda: [each for each in service.instances("ready") if each["restarts"] == 1], "not started again")
    service.until_ready(2)
    until(lambda: len(service.left()) == 4, "the dead one left something")
    service.client.post("/scalein", json={"count": 2})
    until(lambda: not service.instances(), "they do not go")
    assert not service.left()
    assert (service.directory / "logs" / "instance-1.log").exists()


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ("ray", signal.SIGKILL),
        ("yr", signal.SIGTERM),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("yr", signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_no_process_survives_the_service(anywhere: Callable[..., Service], number: signal.Signals) -> None:
    service = anywhere(instances=2)
    assert service.end_with_two(number) == -number


@pytest.mark.parametrize("launcher", ["ray", pytest.param("yr", marks=pytest.mark.long)])
def test_a_machine_s_template_forks_them(request: pytest.FixtureRequest, serve: Serve, launcher: str) -> None:
    """One for all actors there; one that is killed costs one ordinary start, and nobody is left behind."""
    address = request.getfixturevalue("ray_address") if launcher == "ray" else ""
    service = serve(launcher, address, ("--template",), instances=4)
    service.until_ready(1)
    service.client.post("/scaleout")
    first, second = service.until_ready(2)
    assert [(each["from_template"], each["not_forked"]) for each in (first, second)] == [(True, None)] * 2
    (state,) = service.status()["template"]["machines"].values()
    assert (state["state"], state["forked"]) == ("ready", 2)
    template = psutil.Process(state["pid"])
    keeper = template.ppid()
    assert {psutil.Process(each["pid"]).ppid() for each in (first, second)} == {keeper}
    template.kill()
    until(lambda: not lives(template.pid), "it is not gone")
    for count in (3, 4):
        service.client.post("/scaleout")
        service.until_ready(count)
    assert [each["state"] for each in service.instances()] == ["ready"] * 4, "those that it had forked live on"
    assert service.instances()[-1]["from_template"]
    service.client.post("/scalein", json={"count": 4})
    until(lambda: not service.instances(), "they do not go")
    assert not service.left()
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(WAIT_S)
    until(lambda: not lives(keeper), "the template's keeper is left")


def test_a_template_ends_with_a_service_that_is_killed(serve: Serve, ray_address: str) -> None:
    service = serve("ray", ray_address, ("--template",))
    service.until_ready(1)
    (state,) = service.status()["template"]["machines"].values()
    keeper = psutil.Process(state["pid"]).ppid()
    service.process.kill()
    service.process.wait(WAIT_S)
    until(lambda: not service.left() and not lives(state["pid"]) and not lives(keeper), "processes are left")


def test_ray_chooses_devices_and_takes_them_back(serve: Serve, ray_address: str) -> None:
    service = serve("ray", ray_address, ("--devices", "1"), instances=2)
    service.client.post("/scaleout")
    service.until_ready(2)
    assert {service.client.get("/v1/x").json()["npus"] for _ in range(2)} == {"0", "1"}
    service.client.post("/scalein", json={"ids": ["instance-1"]})
    until(lambda: len(service.instances()) == 1, "it does not go")
    service.client.post("/scaleout")
    service.until_ready(2)
    assert {service.client.get("/v1/x").json()["npus"] for _ in range(2)} == {"0", "1"}


def test_ray_has_no_machine_with_so_many_devices(serve: Serve, ray_address: str) -> None:
    service = serve("ray", ray_address, ("--devices", "3", "--place-s", "1"), restarts=0)
    until(lambda: service.instances("failed"), "it does not fail")
    said = service.instances()[0]["error"]
    assert (
        "no machine for instance-1 within 1 s: 3 NPU on one machine asked for; the cluster has 2 NPU, free are" in said
    )
    assert not service.pids("starts")


def test_an_actor_that_dies_is_an_instance_that_ended(serve: Serve, ray_address: str) -> None:
    service = serve("ray", ray_address, restarts=1)
    (instance,) = service.until_ready(1)
    first = service.left()
    os.kill(psutil.Process(instance["pid"]).ppid(), signal.SIGKILL)
    until(lambda: [each["restarts"] for each in service.instances("ready")] == [1], "not started again")
    until(lambda: not set(service.left()) & set(first), "the first one's processes are left")
    assert len(service.left()) == 2


@pytest.mark.long
def test_a_ray_of_its_own_goes_with_it(serve: Serve) -> None:
    service = serve("ray")
    service.until_ready(1)
    everybody = psutil.Process(service.process.pid).children(recursive=True)
    ray = [process for process in everybody if process.name() in ("raylet", "gcs_server")]
    assert len(ray) == 2
    heard = {(each.name(), connection.laddr.ip) for each in everybody for connection in _listening(each)}
    assert heard
    assert {host for _, host in heard} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, heard
    service.process.kill()
    service.process.wait(WAIT_S)
    try:
        until(lambda: not service.left(), "processes of instances are left")
        until(lambda: not [each for each in ray if lives(each.pid)], "Ray is left")
    finally:
        for each in everybody:  # agents of Ray take a minute more
            with contextlib.suppress(psutil.Error):
                each.kill()


def _listening(process: psutil.Process) -> list:
    with contextlib.suppress(psutil.Error):
        return [each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    return []


def test_no_ray_at_an_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
    command = [sys.executable, "-m", "yr_fastload_native", "serve", "--model", "m", "--port", "0", "--launcher", "ray"]
    environment = {**os.environ, **ON_LOOPBACK, "RAY_ADDRESS": address}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=WAIT_S)
    assert done.returncode == 1
    assert f"error: UNAVAILABLE: serve: cannot reach Ray at RAY_ADDRESS={address}" in done.stderr


@pytest.mark.parametrize(("launcher", "module"), [("ray", "ray"), ("yr", "yr.apis")])
def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch, launcher: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"yr_fastload_native.service.{launcher}_launcher", raising=False)
    answer = CliRunner().invoke(cli.main, ["serve", "--model", "m", "--port", "0", "--launcher", launcher])
    assert answer.exit_code == 1
    assert f"pip install 'yr-fastload-native[{launcher}]'" in answer.stderr


def test_a_local_launcher_lends_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "machine")
    told = tmp_path / "told"
    code = f"import json, os, time; open({str(told)!r}, 'w').write(json.dumps(dict(os.environ))); time.sleep(600)"
    order = Order("one", ["-c", code], {"OF_ORDER": "1"}, 1.0, 1, {"HERE": "default", "ELSEWHERE": "default"})
    with contextlib.closing(LocalLauncher(machine=MachineDevices("NPU", ["5"]))) as launcher:
        server = launcher.launch(order)
        try:
            until(lambda: told.exists() and told.stat().st_size, "it does not start")
            with pytest.raises(ResourceExhaustedError):
                launcher.launch(order)
        finally:
            server.stop()
        environment = json.loads(told.read_text())
        assert environment["ASCEND_RT_VISIBLE_DEVICES"] == "5"
        assert (environment["HERE"], environment["ELSEWHERE"], environment["OF_ORDER"]) == ("machine", "default", "1")
        launcher.launch(order).stop()


@pytest.mark.parametrize("named", ["", "10.0.0.9:1"])
def test_the_worker_of_a_machine_is_the_one_that_it_names(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("DS_WORKER_ADDR", named)
    if not named:
        monkeypatch.delenv("DS_WORKER_ADDR")
    with contextlib.closing(LocalLauncher(host="10.0.0.7")) as launcher:
        order = VllmServer("m", worker=":31501").order("instance-1")
        assert launcher.environment(order)["DS_WORKER_ADDR"] == (named or "10.0.0.7:31501")


class RayNodes:
    """Of a cluster on this machine."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RAY_NODES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ON_LOOPBACK, **environment},
            start_new_session=True,
        )
        self.address = self._process.stdout.readline().strip()

    def lose_one(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()

    def close(self) -> None:
        with self._process:  # closes its pipes
            self._process.stdin.close()
            self._process.wait(WAIT_S)


@pytest.fixture
def ray_nodes(ray_files: dict[str, str]) -> Iterator[RayNodes]:
    with contextlib.closing(RayNodes(ray_files)) as nodes:
        yield nodes


def node_of(pid: int) -> int:
    """The process of the Ray node that a server's keeper belongs to."""
    return next(each.pid for each in psutil.Process(pid).parents() if each.name() == "raylet")


@pytest.mark.long
def test_nodes_have_as_many_each_and_another_takes_over(ray_nodes: RayNodes, serve: Serve) -> None:
    service = serve("ray", ray_nodes.address, instances=3)
    service.client.post("/scaleout", json={"count": 2})
    nodes = {node_of(each["pid"]) for each in service.until_ready(3)}
    assert len(nodes) == 3, service.status()
    ray_nodes.lose_one()
    until(lambda: sum(each["restarts"] for each in service.instances("ready")) == 1, "it is not started elsewhere")
    left = {node_of(each["pid"]) for each in service.until_ready(3)}
    assert len(left) == 2
    assert left < nodes
