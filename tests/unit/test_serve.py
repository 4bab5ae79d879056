"""What `yr-fastload serve` makes of its arguments, its environment and the devices of a machine."""

from __future__ import annotations

import glob
import json
import os
import socket

import pytest
from click.testing import CliRunner

import yr_fastload_native.cli as cli
from yr_fastload_native.cli import serve as serve_module
from yr_fastload_native.errors import ResourceExhaustedError, UnavailableError
from yr_fastload_native.service import local
from yr_fastload_native.service.launcher import Devices
from yr_fastload_native.service.machine import MachineDevices
from yr_fastload_native.service.vllm_server import VllmServer
from yr_fastload_native.service.weights_origin import origin_of


@pytest.fixture
def started(monkeypatch):
    """What a command would have started."""
    seen = []
    monkeypatch.setattr(serve_module, "_run", lambda *told: (seen.append(told), told[4].close()))
    return seen


@pytest.fixture
def devices(monkeypatch):
    """Has the machine have devices of a kind."""

    def have(kind, count):
        real = glob.glob
        paths = [f"/dev/{kind}{number}" for number in reversed(range(count))]
        monkeypatch.setattr(glob, "glob", lambda what: paths if what.startswith(f"/dev/{kind}") else real(what))

    return have


def test_names_of_the_original(started) -> None:
    environment = {"MODEL_PATH": "/models/m", "SERVER_PORT": "0", "PTP": "2", "PREFILL_INS_NUM": "3"}
    answer = CliRunner().invoke(cli.main, ["serve", "--", "--max-model-len", "128"], env=environment)
    assert answer.exit_code == 0, answer.output
    ((server, limits, _, instances, _, keep_alive_s, as_json),) = started
    assert (server.model, server.tp, server.arguments) == ("/models/m", 2, ("--max-model-len", "128"))
    assert (limits.instances, instances, keep_alive_s, as_json) == (8, 3, 650, False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--worker", "nowhere"], "nowhere"),
        (["--instances", "9"], "--instances 9 is more than --max-instances 8"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid:0"),
    ],
)
def test_what_cannot_be_is_one_line(started, arguments, says) -> None:
    answer = CliRunner().invoke(cli.main, ["serve", "--model", "m", "--port", "0", *arguments])
    assert answer.exit_code == 1
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not started


def test_a_port_that_is_taken(started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = CliRunner().invoke(cli.main, ["serve", "--model", "m", "--port", port])
    assert answer.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in answer.stderr
    assert not started


@pytest.mark.parametrize(
    ("files", "kind", "variable"),
    [("davinci", "NPU", "ASCEND_RT_VISIBLE_DEVICES"), ("nvidia", "GPU", "CUDA_VISIBLE_DEVICES")],
)
def test_devices_are_shared_out(devices, monkeypatch, started, files, kind, variable) -> None:
    monkeypatch.delenv(variable, raising=False)
    devices(files, 12)
    every = MachineDevices.here()
    assert every.devices == Devices(kind, 12)
    assert every.lend(12).environment == {variable: "0,1,2,3,4,5,6,7,8,9,10,11"}
    monkeypatch.setenv(variable, "3,5, 7")
    machine = MachineDevices.here()
    first, second = machine.lend(1), machine.lend(2)
    assert (first.environment, second.environment) == ({variable: "3"}, {variable: "5,7"})
    with pytest.raises(ResourceExhaustedError, match=f"1 {kind}s for an instance: 0 of 3 are left"):
        machine.lend(1)
    first.give_back()
    first.give_back()
    assert machine.lend(1).environment == {variable: "3"}
    with pytest.raises(ResourceExhaustedError):
        machine.lend(1)
    server = VllmServer("m", tp=1, devices=machine.devices)
    assert server.most == 3
    order = server.order("instance-1")
    assert order.devices == 1
    assert list(order.arguments[:2]) == ["-m", "vllm.entrypoints.cli.main"]
    assert "--gpu-memory-utilization" not in order.arguments
    assert not order.defaults
    answer = CliRunner().invoke(cli.main, ["serve", "--model", "m", "--port", "0", "--tp", "2", "--max-instances", "2"])
    assert answer.exit_code == 1
    assert f"2 instances of 2 devices: there are 3 {kind}s" in answer.stderr
    assert not started


def test_how_many_devices_a_cluster_has_may_be_unknown() -> None:
    server = VllmServer("m", tp=2, devices=Devices("NPU"), devices_each=2)
    assert server.most is None
    assert server.order("instance-1").devices == 2


def test_instances_without_devices_share_the_machine() -> None:
    server = VllmServer("m", tp=2, worker="127.0.0.1:1", devices=Devices())
    order = server.order("instance-1")
    assert order.environment == {
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60",
        "YR_FASTLOAD_PATCH": "1",
        "YR_FASTLOAD_WORKER": "127.0.0.1:1",
    }
    assert order.defaults == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    assert order.devices == 0
    assert list(order.arguments[:3]) == ["-m", "yr_fastload_native.vllm.shared_cores", "2"]
    assert list(order.arguments[-4:]) == ["--tensor-parallel-size", "2", "--gpu-memory-utilization", "0.1"]
    told = VllmServer("m", arguments=("--gpu-memory-utilization=0.5",), devices=Devices())
    assert list(told.order("instance-1").arguments[-2:]) == ["m", "--gpu-memory-utilization=0.5"]
    assert MachineDevices().lend(2).environment == {}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("::1", "http://[::1]:7"),
        ("::", "http://localhost:7"),
        ("0.0.0.0", "http://localhost:7"),
        ("127.0.0.1", "http://127.0.0.1:7"),
    ],
)
def test_an_address_is_one_to_ask(host, url) -> None:
    assert "http://" + serve_module._address(host, 7) == url


def test_the_service_listens_as_it_says(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: seen.append((server.config, sockets)))
    arguments = ["serve", "--model", "m", "--host", "::1", "--port", "0", "--json", "--keep-alive", "700"]
    answer = CliRunner().invoke(cli.main, [*arguments, "--instances", "0"])
    assert answer.exit_code == 0, answer.output
    ((config, (listener,)),) = seen
    with listener:
        assert json.loads(answer.output)["url"] == f"http://[::1]:{listener.getsockname()[1]}"
    assert config.timeout_keep_alive == 700


@pytest.mark.parametrize("arguments", [("--uds", "run/x.sock"), ("--a", "--uds=run/x.sock", "--b", "c")])
def test_each_instance_has_a_socket_of_its_own(started, monkeypatch, arguments) -> None:
    monkeypatch.chdir("/")
    server = VllmServer("m", arguments=arguments)
    assert server.uds == "run/x.sock"
    assert [server.order(name).uds for name in ("instance-1", "instance-2")] == [
        "/run/x.sock.instance-1",
        "/run/x.sock.instance-2",
    ]
    assert VllmServer("m", arguments=("--x", "y")).order("instance-1").uds is None


def test_a_socket_is_free_or_not_an_instance_s(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # whose path may be too long for one
    path = "x.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()
        with pytest.raises(UnavailableError, match="is in use; use another --uds"):
            local._make_room(path)
    local._make_room(path)
    assert not os.path.exists(path)
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="is in use"):
        local._make_room(str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="is 3 characters too long for a socket; use a shorter --uds"):
        local._make_room("/" + "x" * 109)


@pytest.mark.parametrize(("port", "left"), [("tcp://10.0.0.1:80", None), ("5000", "5000")])
def test_a_variable_of_kubernetes_is_no_port_of_instances(monkeypatch, port, left) -> None:
    monkeypatch.setenv("VLLM_PORT", port)
    assert local._inherited().get("VLLM_PORT") == left


def test_there_are_devices_for_an_instance_that_comes_later(devices, started) -> None:
    devices("davinci", 1)
    arguments = ["serve", "--model", "m", "--port", "0", "--tp", "2", "--instances", "0"]
    answer = CliRunner().invoke(cli.main, arguments)
    assert answer.exit_code == 1
    assert "1 instances of 2 devices: there are 1 NPUs" in answer.stderr
    assert not started


def event(kind, pid, **facts):
    nothing = {"cold_load_s": None, "pull_s": None, "transport": None, "bytes": 0, "fallback": None}
    return {"event": kind, "pid": pid, **nothing, **facts}


def test_ranks_make_one_load() -> None:
    assert origin_of([event("loading", 1)]) is None
    pulled = [event("loaded", pid, pull_s=0.5 * pid, transport="host", bytes=10) for pid in (1, 2)]
    load = origin_of([*pulled, event("loaded", 1, pull_s=0.25, transport="host", bytes=1)])  # its draft model
    assert (load.source, load.seconds, load.bytes, load.transport) == ("instance", 1.0, 21, "host")
    read = event("loaded", 3, cold_load_s=4.0, fallback="UNAVAILABLE")
    load = origin_of([*pulled, read])
    assert (load.source, load.seconds, load.fallback, load.published) == ("disk", 4.0, "UNAVAILABLE", False)
    published = {"bytes": 7, "tensors": 2, "from_files": []}
    shared = event("loaded", 1, cold_load_s=2.0, checkpoint=published)
    load = origin_of([shared, event("loaded", 2, cold_load_s=3.0, checkpoint=published)])
    assert (load.source, load.seconds, load.bytes, load.transport) == ("instance", 3.0, 14, "checkpoint")
    load = origin_of([event("loaded", 1, cold_load_s=2.0, checkpoint={**published, "from_files": ["a"]})])
    assert (load.source, load.transport) == ("disk", None)
    there = event("loaded", 4, pull_s=1.0, transport="host", bytes=1, host="b", publisher="a:17")
    load = origin_of([there])
    assert (load.host, load.publisher_host) == ("b", "a")
    assert origin_of([read]).publisher_host is None
    load = origin_of([read, event("published", 3, bytes=30)])
    assert (load.bytes, load.published) == (30, True)


def test_what_each_rank_said_last_of_its_leases_counts() -> None:
    load = event("loaded", 1, cold_load_s=1.0)
    first, second = (event("leases", pid, trouble={f"g{pid}": f"lost: by {pid}"}) for pid in (1, 2))
    assert origin_of([load]).lease_trouble is None
    assert origin_of([load, first, second]).lease_trouble == "lost: by 1; lost: by 2"
    assert origin_of([load, first, second, event("leases", 1, trouble={})]).lease_trouble == "lost: by 2"
