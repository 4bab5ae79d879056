"""``VLLM_PLUGINS`` may leave this package out."""

from __future__ import annotations

import pytest

from yr_fastload_native.cli import doctor
from yr_fastload_native.service.launcher import Devices
from yr_fastload_native.service.vllm_server import VllmServer
from yr_fastload_native.vllm.allowed import allowing, is_allowed


@pytest.mark.parametrize("value", [None, "yr_fastload", "other,yr_fastload"])
def test_allowed(value: str | None) -> None:
    environ = {} if value is None else {"VLLM_PLUGINS": value}
    assert is_allowed(environ)
    assert allowing(environ) == {}


@pytest.mark.parametrize(("value", "better"), [("", "yr_fastload"), ("ascend", "ascend,yr_fastload")])
def test_left_out(value: str, better: str) -> None:
    assert not is_allowed({"VLLM_PLUGINS": value})
    assert allowing({"VLLM_PLUGINS": value}) == {"VLLM_PLUGINS": better}


def test_whoever_asks_for_the_service_asks_for_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "ascend")
    environment = VllmServer("m", devices=Devices()).order("i0").environment
    assert environment["VLLM_PLUGINS"] == "ascend,yr_fastload"


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "ascend")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    found = [finding for finding in doctor._vllm() if finding.check == "plugins"]
    assert [finding.level for finding in found] == ["wrong"]
