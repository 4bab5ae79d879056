"""The service with instances that are forked from a template: nobody is left behind, whoever is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from .service import Service, lives, until


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    """A service that forks, whose template is ready."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    services: list[Service] = []

    def start(mode: str = "well", imports: Sequence[str] = ("http.server",), **limits: object) -> Service:
        arguments = ["--template", "--imports", *imports]
        services.append(
            Service(tmp_path, mode, limits=limits, arguments=arguments, environment={"PYTHONPATH": str(tmp_path)})
        )
        return services[-1]

    yield start
    for service in services:
        below = psutil.Process(service.process.pid).children(recursive=True) if lives(service.process.pid) else []
        service.end()
        until(lambda: not any(lives(each.pid) for each in below), "keepers or a template are left")  # noqa: B023


def test_instances_are_forked_and_scaled_in(serve: Callable[..., Service]) -> None:
    service = serve(instances=3)
    (first,) = service.until_ready(1)
    service.client.post("/scaleout", json={"count": 2})
    second = service.until_ready(3)[1]
    assert [each["from_template"] for each in service.instances()] == [True] * 3
    assert (second["load_source"], second["not_forked"]) == ("instance", None)
    template = service.status()["template"]
    assert (template["state"], template["forked"], template["reason"]) == ("ready", 3, None)
    assert template["modules"] > 0
    assert template["private_bytes"] > 0
    service.client.post("/scalein", json={"ids": [first["id"]]})
    until(lambda: len(service.instances()) == 2, "it does not go")
    assert len(service.left()) == 4


def test_the_status_is_there_while_the_template_imports(serve: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(5)\n")
    service = serve(imports=["slow"], instances=1)
    assert service.status()["template"]["state"] == "importing"
    assert service.until_ready(1)[0]["from_template"]
    assert service.status()["template"]["import_seconds"] >= 5


def test_scale_in_while_it_is_forked(serve: Callable[..., Service]) -> None:
    service = serve(instances=7)
    service.until_ready(1)
    for _ in range(3):
        names = service.client.post("/scaleout", json={"count": 2}).json()["instances"]
        service.client.post("/scalein", json={"ids": names})
    until(lambda: len(service.instances()) == 1, "they do not go")
    until(lambda: len(service.left()) == 2, "their processes are left")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_the_service(serve: Callable[..., Service], number: signal.Signals) -> None:
    service = serve(instances=2)
    service.until_ready(1)
    below = psutil.Process(service.process.pid).children(recursive=True)
    service.end_with_two(number)
    until(lambda: not any(lives(each.pid) for each in below), "keepers or a template are left")


@pytest.mark.parametrize("who", ["its keeper", "the instance"])
def test_who_is_killed_is_started_again(serve: Callable[..., Service], who: str) -> None:
    service = serve()
    (instance,) = service.until_ready(1)
    first = service.left()
    os.kill(instance["pid"] if who == "its keeper" else service.pids("starts")[0], signal.SIGKILL)
    until(lambda: [each["restarts"] for each in service.instances("ready")] == [1], "not started again")
    until(lambda: not set(service.left()) & set(first), "the first one's processes are left")
    assert len(service.left()) == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_keeper_of_the_template_goes(serve: Callable[..., Service], number: signal.Signals) -> None:
    """Instances live on, the next one is there all the same, and nobody is left when the service has gone."""
    service = serve(instances=2)
    (first,) = service.until_ready(1)
    template = psutil.Process(service.status()["template"]["pid"])
    keeper = template.parent()
    assert keeper is not None
    keeper.send_signal(number)
    if number == signal.SIGKILL:
        until(lambda: not lives(template.pid), "the template outlives its keeper")
    service.client.post("/scaleout")
    assert service.until_ready(2)[0] == {**first, "served": 0}
    if number == signal.SIGSTOP:
        keeper.send_signal(signal.SIGCONT)
