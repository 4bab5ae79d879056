"""The service of `yr-fastload serve` and its instances, with stand-ins for vLLM servers; tests/e2e has real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from .service import WAIT_S, Service, until


def test_scale_out_and_in(serve: Callable[..., Service]) -> None:
    service = serve(instances=3)
    (first,) = service.until_ready(1)
    assert (first["load_source"], first["load_seconds"], first["speed_up"]) == ("disk", 8.0, None)
    assert first["published"]
    answer = service.client.post(
        "/scaleout", content=b"", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert (answer.status_code, answer.json()) == (202, {"instances": ["instance-2"]})
    second = service.until_ready(2)[1]
    assert (second["load_source"], second["speed_up"], second["transport"]) == ("instance", 16.0, "host")
    assert second["bytes"] == 1000
    names = ["launched", "server imported", "engine made", "rank imported", "rank set up", "weights", "server answers"]
    for each in (first, second):
        assert [phase["name"] for phase in each["phases"]] == names
        assert sum(phase["seconds"] for phase in each["phases"]) == pytest.approx(each["ready_seconds"], abs=0.1)
    drawn = [each for each in service.client.get("/trace").json()["traceEvents"] if each["ph"] == "X"]
    assert [(each["pid"], each["name"]) for each in drawn] == [(number, name) for number in (1, 2) for name in names]
    pids = {service.client.post("/v1/x", json={}).headers["x-pid"] for _ in range(2)}
    assert pids == {str(pid) for pid in service.pids("starts")}
    refused = service.client.post("/scaleout", json={"count": 2})
    assert refused.status_code == 409
    assert "3 are allowed" in refused.json()["error"]["message"]
    assert service.client.post("/scalein", json={"ids": ["instance-1"]}).json() == {"instances": ["instance-1"]}
    until(lambda: [each["id"] for each in service.instances()] == ["instance-2"], "it does not go")
    assert service.left() == [service.pids("starts")[1], service.pids("children")[1]]
    assert service.client.post("/scaleout", json={"count": 2}).json() == {"instances": ["instance-3", "instance-4"]}


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/scaleout", b"[]", "Expected `object`"),
        ("/scaleout", b'{"count": "x"}', "Expected `int`"),
        ("/scaleout", b'{"count": 0}', "a number from 1"),
        ("/scaleout", b'{"cuont": 1}', "cuont"),
        ("/scalein", b'{"count": 7}', "a number from 1 to 1"),
        ("/scalein", b'{"ids": ["x"]}', "no instance 'x'"),
    ],
)
def test_wrong_wishes_change_nothing(serve: Callable[..., Service], path: str, body: bytes, says: str) -> None:
    service = serve()
    answer = service.client.post(path, content=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
    assert len(service.instances()) == 1


def test_another_site_s_page_cannot_ask(serve: Callable[..., Service]) -> None:
    service = serve()
    assert service.client.post("/scaleout", headers={"origin": "http://example.com"}).status_code == 400
    own = str(service.client.base_url).rstrip("/")
    assert service.client.post("/scaleout", headers={"origin": own}).status_code == 202


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/v1/models"])
def test_another_name_that_leads_to_loopback_is_refused(serve: Callable[..., Service], path: str) -> None:
    service = serve()
    answer = service.client.get(path, headers={"host": "example.com"})
    assert answer.status_code == 400
    assert "use 127.0.0.1 or localhost" in answer.json()["error"]["message"]
    for name in ("localhost:9000", "[::1]:9000", "127.0.0.1"):
        assert service.client.get(path, headers={"host": name}).status_code != 400


def test_answers_are_passed_on_as_they_come(serve: Callable[..., Service]) -> None:
    service = serve()
    unready = service.client.get("/v1/models")
    if unready.status_code == 503:
        assert unready.headers["retry-after"]
        assert service.client.get("/health").status_code == 503
    service.until_ready(1)
    assert service.client.get("/health").status_code == 200
    assert service.client.get("/v1/models?x=1").json()["path"] == "/v1/models?x=1"
    answer = service.client.post("/v1/y", json={"a": [1]})
    assert (answer.status_code, answer.json(), answer.headers["x-twice"]) == (201, {"a": [1]}, "1")
    assert answer.headers["x-served-by"] == "instance-1"
    times = []
    with service.client.stream("POST", "/v1/y", json={"stream": 4, "each_s": 0.5}) as answer:
        for line in answer.iter_lines():
            if line:
                times.append((time.monotonic(), line))
    assert [line for _, line in times] == [f"data: {number}" for number in range(4)]
    assert times[-1][0] - times[0][0] > 1.0
    until(lambda: service.instances()[0]["served"] == 3, "they are not counted")


def test_a_client_that_goes_is_not_served_on(serve: Callable[..., Service]) -> None:
    service = serve()
    service.until_ready(1)
    with service.client.stream("POST", "/v1/y", json={"stream": 1000, "each_s": 0.05}) as answer:
        lines = answer.iter_lines()  # the stream ends with it
        assert next(lines) == "data: 0"
        assert service.instances()[0]["in_flight"] == 1
    until((service.directory / "client-gone").exists, "the instance was not told")
    until(lambda: service.instances()[0]["in_flight"] == 0, "it is still counted")
    with pytest.raises(httpx.ReadTimeout):
        service.client.post("/v1/y", json={"seconds": 30}, timeout=0.5)
    until(lambda: service.instances()[0]["in_flight"] == 0, "it is still counted")


def test_draining_lets_requests_end(serve: Callable[..., Service]) -> None:
    service = serve(drain_s=30)
    service.until_ready(1)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(service.client.post("/v1/y", json={"seconds": 2})))
    asking.start()
    until(lambda: service.instances()[0]["in_flight"], "no request")
    service.client.post("/scalein")
    assert service.instances()[0]["state"] == "stopping"
    assert service.client.post("/v1/y", json={}).status_code == 503
    asking.join()
    assert answers[0].status_code == 201
    until(lambda: not service.instances(), "it does not go")


def test_a_dead_instance_is_started_again_and_others_serve(serve: Callable[..., Service]) -> None:
    service = serve(instances=2)
    service.until_ready(1)
    service.client.post("/scaleout")
    service.until_ready(2)
    assert service.client.post("/v1/y", json={"die": True}).status_code == 201  # by the other one
    answers = {service.client.post("/v1/y", json={}).status_code for _ in range(10)}
    assert answers == {201}
    until(lambda: [each for each in service.instances("ready") if each["restarts"] == 1], "not started again")
    assert len(service.until_ready(2)) == 2
    assert len(service.pids("starts")) == 3
    until(lambda: len(service.left()) == 4, "the dead one left something")


def test_one_that_does_not_answer_is_started_again(serve: Callable[..., Service]) -> None:
    service = serve(health_s=0.3)
    service.until_ready(1)
    (service.directory / f"unwell.{service.pids('starts')[0]}").touch()
    until(lambda: len(service.pids("starts")) == 2, "not started again")
    (instance,) = service.until_ready(1)
    assert instance["restarts"] == 1


def test_starts_that_fail_end(serve: Callable[..., Service]) -> None:
    service = serve("crash", restarts=2, backoff_s=0.1)
    until(lambda: service.instances("failed") and len(service.pids("starts")) == 3, "no third start")
    time.sleep(0.5)
    (instance,) = service.instances()
    assert (instance["state"], instance["restarts"]) == ("failed", 2)
    assert "ended with status 1" in instance["error"]
    assert "no weights here" in instance["error"]
    assert len(service.pids("starts")) == 3
    service.client.post("/scalein")
    until(lambda: not service.instances(), "it does not go")


def test_a_start_that_hangs_is_bounded(serve: Callable[..., Service]) -> None:
    service = serve("hang", start_s=1.0, restarts=0)
    until(lambda: service.instances("failed"), "it does not fail")
    until(lambda: service.instances()[0]["error"] is not None, "no reason")
    assert "not ready within 1 s" in service.instances()[0]["error"]
    assert not service.left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_the_service(serve: Callable[..., Service], number: signal.Signals) -> None:
    service = serve(instances=2)
    service.end_with_two(number)


def test_a_keeper_s_process_may_be_killed(serve: Callable[..., Service]) -> None:
    """As somebody does who kills his children when he goes."""
    service = serve()
    (instance,) = service.until_ready(1)
    first = service.left()
    os.kill(instance["pid"], signal.SIGKILL)
    until(lambda: [each["restarts"] for each in service.instances("ready")] == [1], "not started again")
    until(lambda: not set(service.left()) & set(first), "the first one's processes are left")
    assert len(service.left()) == 2


def test_page(serve: Callable[..., Service]) -> None:
    page = serve().client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "Scale out" in page.text


def test_metrics(serve: Callable[..., Service]) -> None:
    service = serve()
    service.until_ready(1)
    service.client.post("/v1/y", json={})
    until(lambda: service.instances()[0]["served"], "it is not counted")
    text = service.client.get("/metrics").text
    assert 'yr_fastload_instances{state="ready"} 1.0' in text
    assert 'yr_fastload_instance_load_seconds{instance="instance-1",source="disk"} 8.0' in text
    assert 'yr_fastload_instance_phase_seconds{instance="instance-1",phase="weights"}' in text
    assert 'yr_fastload_instance_requests_total{instance="instance-1"} 1.0' in text


@pytest.mark.parametrize("installed", ["as ever", "by pip --target"])
def test_a_keeper_passes_the_status_on(tmp_path: Path, installed: str) -> None:
    """Also where its Python by itself finds nothing that was installed, and beside a module that is none of it."""
    from yr_fastload_native.service.processes import keeper_command

    (tmp_path / "subprocess.py").write_text("raise SystemExit(99)")
    for code, status in (("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)):
        command = keeper_command("run", 1.0, [sys.executable, "-c", code])
        if installed == "by pip --target":
            command.insert(1, "-S")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, env=environment) as process:
            assert process.wait(WAIT_S) == status


def test_a_keeper_leaves_a_worker_that_others_may_use(short_tmp: Path) -> None:
    from yr_fastload_native.service.processes import keeper_command
    from yr_fastload_native.worker import LocalWorker
    from yr_fastload_native.worker.process import start_ticks

    code = """
import subprocess, sys
from yr_fastload_native.worker.door import Door
from yr_fastload_native.worker.home import Home
from yr_fastload_native.worker.process import start_ticks
home = Home(sys.argv[1])
for _ in range(2):
    pid = int(subprocess.run(["sh", "-c", "sleep 60 >&- & echo $!"], stdout=subprocess.PIPE).stdout)
    print(pid, flush=True)
status = {"address": "h:1", "metastore_address": "h:2", "pid": pid, "start_ticks": start_ticks(pid), "memory_mb": 1}
status |= {"home": sys.argv[1], "keep": False}
door = Door(home.key, RuntimeError)
door.leave_to_watcher(door.bind(), home.hold(0, ""), status, data=home.data, adopted=False)
"""
    command = keeper_command("run", 1.0, [sys.executable, "-c", code, str(short_tmp)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.wait(WAIT_S) == 0
        assert process.stdout is not None
        orphan, shared = map(int, process.stdout.read().split())
    assert start_ticks(orphan) is None
    with LocalWorker(home=short_tmp):
        status = LocalWorker.status(short_tmp)
        assert status is not None
        assert status.pid == shared
    assert start_ticks(shared) is None
