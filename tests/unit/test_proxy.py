"""What the service passes on to instances, and how: with stand-ins in this process."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from yr_fastload_native.service.changes import CHANGES

from ..waiting import wait_until
from .servers import WAIT_S, StandIns, served

# Every path of vLLM 0.32.0 that is not this service's own; tests/e2e compares them with vLLM.
ROUTES = json.loads(Path(__file__).with_name("vllm_routes.json").read_text())


def test_every_path_of_vllm_is_answered() -> None:
    with served() as service:
        (stand_in,) = service.launcher.made
        for route, methods in ROUTES.items():
            path = route.replace("{", "").replace("}", "")
            for method in methods if route not in ("/health", "/metrics") else ():
                answer = service.client.request(method, path, content=b'{"lora_name": "a"}' * (method == "POST"))
                assert (answer.headers["x-served-by"], stand_in.calls[-1]) == ("instance-1", (method, path))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH"])
def test_every_method_is_passed_on(method: str) -> None:
    with served() as service:
        answer = service.client.request(method, "/v1/models")
        assert answer.status_code == 200
        assert service.launcher.made[0].calls == [(method, "/v1/models")]
        assert answer.headers["content-length"] == "10"
        assert answer.content == (b"" if method == "HEAD" else b"/v1/models")
        assert service.client.head("/status").status_code == 200
        assert service.client.get("/scaleout").status_code == 405
        assert service.client.post("/status").status_code == 405


def test_a_request_arrives_as_it_was_sent() -> None:
    with served() as service:
        (stand_in,) = service.launcher.made
        sent = {"connection": "keep-alive, X-Hop", "x-hop": "1", "x-end": "2", "expect": "100-continue"}
        asked = httpx.Request("GET", service.url, headers=sent)
        asked.url = asked.url.copy_with(raw_path=b"/v1/models/a%2Fb%3Fc?d=%20e")
        service.client.send(asked)
        assert stand_in.calls == [("GET", "/v1/models/a%2Fb%3Fc")]
        assert stand_in.headers["x-end"] == "2"
        assert not {"x-hop", "expect"} & set(stand_in.headers)
        assert stand_in.headers["host"] == asked.url.netloc.decode()


def test_what_was_not_answered_is_sent_once_more() -> None:
    with served(2) as service:
        for stand_in in service.launcher.made:
            stand_in.lose = 1
            assert service.client.post("/v1/completions", content=b"x" * 100_000).content == b"x" * 100_000
            stand_in.lose = 0
        sent = sum(len(each.calls) for each in service.launcher.made)
        for stand_in in service.launcher.made:
            stand_in.lose = 5
        answer = service.client.post("/v1/completions", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert "before answering: instance-" in answer.json()["error"]["message"]
        assert sum(len(each.calls) for each in service.launcher.made) == sent + 2


def test_a_lone_instance_is_asked_again() -> None:
    with served() as service:
        service.launcher.made[0].lose = 1
        assert service.client.post("/v1/completions", content=b"x").content == b"x"


# -- what changes instances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CHANGES - {"/v1/unload_lora_adapter", "/adapters"}))
def test_a_change_is_made_to_all(path: str) -> None:
    if path != "/v1/load_lora_adapter":
        assert "POST" in ROUTES[path]


def test_adapters_are_on_all_instances_and_on_later_ones() -> None:
    with served(2) as service:
        first, second = service.launcher.made
        for name in ("a", "b"):
            answer = service.client.post("/v1/load_lora_adapter/", json={"lora_name": name, "lora_path": "/x"})
            assert (answer.status_code, answer.text) == (200, "Success")
            assert answer.headers["x-served-by"] == "instance-1, instance-2"
        assert first.adapters == second.adapters == {"a", "b"}
        service.client.post("/v1/unload_lora_adapter", json={"lora_name": "b"})
        service.client.post("/scaleout")
        service.until_ready(3)
        assert [each.adapters for each in service.launcher.made] == [{"a"}] * 3


def test_answers_that_differ_are_all_passed_on() -> None:
    with served(2) as service:
        answer = service.client.post("/collective_rpc", json={})
        assert answer.json() == {
            f"instance-{number}": {"results": [id(each)]}
            for number, each in zip((1, 2), service.launcher.made, strict=True)
        }


def test_a_change_that_one_refuses_is_an_error_that_names_it() -> None:
    with served(2) as service:
        first, second = service.launcher.made
        second.refuse["/v1/load_lora_adapter"] = 400
        answer = service.client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/x"})
        assert answer.status_code == 500
        assert 'instance-2 answered 400 {"error":"no"}; it was done by instance-1' in answer.json()["error"]["message"]
        first.refuse["/v1/load_lora_adapter"] = 400
        answer = service.client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/x"})
        assert (answer.status_code, answer.json()) == (400, {"error": "no"})


def test_one_that_does_not_answer_to_a_change_is_started_again_with_it() -> None:
    with served(2) as service:
        service.launcher.made[1].lose = 1
        answer = service.client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/x"})
        assert (answer.status_code, answer.headers["x-served-by"]) == (200, "instance-1")
        assert wait_until(lambda: len(service.launcher.made) == 3, WAIT_S)
        service.until_ready(2)
        assert service.launcher.made[2].adapters == {"a"}


def test_an_instance_that_cannot_have_the_adapters_is_not_ready() -> None:
    with served() as service:
        service.client.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": "/x"})
        launch = service.launcher.launch

        def refusing(order):
            started = launch(order)
            service.launcher.made[-1].refuse["/v1/load_lora_adapter"] = 404
            return started

        service.launcher.launch = refusing
        service.client.post("/scaleout")

        def error():
            return service.client.get("/status").json()["instances"][1]["error"] or ""

        assert wait_until(lambda: "answered 404 to /v1/load_lora_adapter for a" in error(), WAIT_S)
        assert len(service.ready()) == 1


def test_another_site_s_page_changes_nothing() -> None:
    with served() as service:
        for path in ("/sleep", "/sl%65ep", "/sleep/"):
            answer = service.client.post(path, headers={"origin": "http://example.com"})
            assert (answer.status_code, service.launcher.made[0].calls) == (400, [])


def test_what_one_instance_keeps_is_found_there() -> None:
    with served(3) as service:
        service.launcher.made[1].responses.add("resp_1")
        for _ in range(4):
            answer = service.client.get("/v1/responses/resp_1")
            assert (answer.status_code, answer.headers["x-served-by"]) == (200, "instance-2")
        assert service.client.get("/v1/responses/resp_2").json() == {"error": "not found"}


# -- other ways to an instance ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of nobody that anybody trusts, as uvicorn takes it."""
    path = tmp_path_factory.mktemp("tls")
    issued = trustme.CA().issue_cert("example.com")
    issued.private_key_pem.write_to_path(path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(path / "cert.pem")
    return {"ssl_keyfile": str(path / "key.pem"), "ssl_certfile": str(path / "cert.pem")}


@pytest.mark.parametrize("way", ["tcp", "tls", "socket", "socket and tls"])
def test_ways_to_an_instance(tmp_path: Path, certificate: dict[str, str], way: str) -> None:
    launcher = StandIns(tmp_path if "socket" in way else None, **(certificate if "tls" in way else {}))
    with served(2, launcher) as service:
        names = {service.client.post("/v1/x", content=b"y").headers["x-served-by"] for _ in range(4)}
        assert names == {"instance-1", "instance-2"}
        told = service.ready()[0]
        if "socket" in way:
            assert (told["url"], told["port"]) == (f"unix:{tmp_path}/instance-1", None)
        else:
            assert told["url"] == f"http{'s' if way == 'tls' else ''}://127.0.0.1:{told['port']}"
        with connect(f"ws{service.url[4:]}/v1/realtime", proxy=None) as client:
            client.send("hello")
            assert client.recv() == "HELLO"


def test_an_instance_that_wants_a_certificate_says_so(certificate: dict[str, str]) -> None:
    launcher = StandIns(**certificate, ssl_ca_certs=certificate["ssl_certfile"], ssl_cert_reqs=ssl.CERT_REQUIRED)
    with served(0, launcher) as service:
        service.fleet._limits = service.fleet._limits.__class__(start_s=0.5, restarts=0)
        service.client.post("/scaleout")

        def error():
            return service.client.get("/status").json()["instances"][0]["error"] or ""

        assert wait_until(lambda: "not ready within 0.5 s" in error(), WAIT_S)
        assert "last answer: " in error()


def test_a_service_without_instances() -> None:
    with served(0) as service:
        assert service.client.get("/health").status_code == 503
        assert service.client.post("/v1/completions").status_code == 503
        assert service.client.post("/sleep").status_code == 503
        service.client.post("/scaleout")
        service.until_ready(1)


def test_sockets_of_the_web() -> None:
    with served() as service:
        url = f"ws{service.url[4:]}/v1/realtime"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{url}?refuse=1", proxy=None)
        assert (refused.value.response.status_code, refused.value.response.body) == (404, b"no such model")
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin="http://example.com", proxy=None)
        assert refused.value.response.status_code == 400
        with connect(url, subprotocols=["realtime"], proxy=None) as client:
            assert client.subprotocol == "realtime"
            client.send(b"ab")
            assert client.recv() == b"ba"
            assert service.ready()[0]["in_flight"] == 1
            client.send("end")
            with pytest.raises(ConnectionClosed) as closed:
                client.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
        assert wait_until(lambda: service.ready()[0]["in_flight"] == 0, WAIT_S)
        service.client.post("/scalein")
        assert wait_until(lambda: not service.ready(), WAIT_S)
        with pytest.raises(InvalidStatus) as refused:
            connect(url, proxy=None)
        assert refused.value.response.status_code == 503


def test_a_mapped_address_is_loopback_too() -> None:
    from yr_fastload_native.service.access import _is_loopback

    assert _is_loopback("::ffff:127.0.0.1")
    assert not _is_loopback("::ffff:10.0.0.1")
