"""What vLLM's extra config may say; vLLM itself is not needed for that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.errors import DeviceError, InvalidArgumentError
from yr_fastload_native.settings import Config, ExchangeConfig
from yr_fastload_native.vllm import plugin
from yr_fastload_native.vllm.settings import Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("YR_FASTLOAD_") or name == "DS_WORKER_ADDR":
            monkeypatch.delenv(name)


def test_nothing_said_gives_the_defaults() -> None:
    assert Settings.of({}) == Settings(Config(), ExchangeConfig())


def test_keys_go_where_they_belong() -> None:
    extra = {
        "worker": "127.0.0.1:31501",
        "transport": "host",
        "deadline_s": 7,
        "cold_load_format": "safetensors",
        "cold_load_extra_config": {"enable_multithread_load": True},
        "fallback": "error",
        "publish": "inline",
        "stage": "final",
        "fingerprint": "v1",
    }
    settings = Settings.of(extra)
    assert settings.transfer == Config(worker="127.0.0.1:31501", transport="host", deadline_s=7)
    assert attrs.asdict(settings.exchange) == {
        **{key: extra[key] for key in ("cold_load_format", "fallback", "publish", "stage", "fingerprint")},
        "cold_load_extra_config": {"enable_multithread_load": True},
        "share": "sharded",
        "verify_files": "background",
        "on_wrong": "log",
        "patch": False,
        "publish_device_bytes": 0,
        "wait_for_publisher_s": 120.0,
        "share_caches": "auto",
        "share_caches_bytes": 1 << 30,
        "share_model_files": True,
        "report": "",
    }


def test_the_environment_fills_what_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YR_FASTLOAD_STAGE", "final")
    monkeypatch.setenv("YR_FASTLOAD_LEASE_S", "20")
    monkeypatch.setenv("YR_FASTLOAD_COLD_LOAD_EXTRA_CONFIG", '{"num_threads": 4}')
    settings = Settings.of({"stage": "raw"})
    assert (settings.exchange.stage, settings.transfer.lease_s) == ("raw", 20)
    assert settings.exchange.cold_load_extra_config == {"num_threads": 4}


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"trasport": "host"}, r"'trasport': 'host', .*did you mean 'transport'\?.*allowed: .*cold_load_format"),
        ({"patch": True}, "'patch': True, which is not a setting"),
        ({"worker": "nowhere"}, "worker address 'nowhere' is not HOST:PORT"),
        ({"transport": "tcp"}, "transport='tcp' is not allowed; use auto or d2d or staged or host"),
        ({"stage": "cooked"}, "stage='cooked' is not allowed; use raw or final"),
        ({"fallback": True}, "fallback=True is not allowed; use cold or error"),
        ({"publish": "never"}, "publish='never' is not allowed; use background or inline or off"),
        ({"fingerprint": ""}, "fingerprint='' is not allowed; use text"),
        ({"cold_load_extra_config": []}, "cold_load_extra_config=.* is not allowed; use a JSON object"),
        ({"deadline_s": "soon"}, "deadline_s='soon' is not allowed"),
        ([], "is not a JSON object"),
    ],
)
def test_bad_settings_name_key_value_and_what_is_allowed(extra: Any, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        Settings.of(extra)


@pytest.mark.parametrize("extra", [{"transport": "d2d"}, {"transport": "staged"}, {"publish_as": "host+staged"}])
def test_transports_that_this_machine_lacks(extra: dict[str, str]) -> None:
    with pytest.raises(DeviceError, match=r"on NPUs.*, and this process has none; use 'auto' or 'host'"):
        Settings.of(extra)


def test_variables_with_wrong_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YR_FASTLOAD_COLD_LOAD_EXTRA_CONFIG", "{")
    with pytest.raises(InvalidArgumentError, match="is not a JSON object"):
        Settings.of({})


@pytest.mark.parametrize("name", ["PORT", "LEASE_S", "STAGE", "PATCH", "NONSENSE"])
def test_a_vllm_that_asks_for_nothing_starts_whatever_the_environment_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "_register_load_format", lambda: None)
    monkeypatch.setenv(f"YR_FASTLOAD_{name}", "tcp://10.96.0.7:9000")
    plugin.register()


def test_a_patch_that_is_asked_for_wants_settings_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "_register_load_format", lambda: None)
    monkeypatch.setenv("YR_FASTLOAD_PATCH", "1")
    monkeypatch.setenv("YR_FASTLOAD_STAGE", "late")
    with pytest.raises(InvalidArgumentError, match="stage='late' is not allowed"):
        plugin.register()


class Model:
    """One whose parameters lie on these devices."""

    def __init__(self, *devices: str) -> None:
        self._devices = devices

    def parameters(self) -> list[Any]:
        return [SimpleNamespace(device=SimpleNamespace(type=name)) for name in self._devices]


@pytest.mark.parametrize(
    ("worker", "devices", "told", "copies"),
    [
        ("auto", ["cpu"], "auto", False),
        ("127.0.0.1:31501", ["cpu", "cpu"], "auto", False),
        ("localhost:31501", ["cpu"], "auto", False),
        ("[::1]:31501", ["cpu"], "auto", False),
        ("10.0.0.1:31501", ["cpu"], "auto", True),
        ("worker-0.cluster:31501", ["cpu"], "auto", True),
        ("auto", ["cpu", "cuda"], "auto", True),
        ("auto", ["npu"], "auto", True),
        ("auto", ["cpu"], "off", True),
        ("10.0.0.1:31501", ["npu"], "on", False),
    ],
)
def test_models_on_a_cpu_share_the_memory_of_a_worker_that_is_here(
    worker: str, devices: list[str], told: str, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.of({"worker": worker, "zero_copy": told})
    assert settings.transfer_of(Model(*devices)).zero_copy is not copies
    if worker != "auto":
        monkeypatch.setenv("DS_WORKER_ADDR", worker)
        assert Settings.of({"zero_copy": told}).transfer_of(Model(*devices)).zero_copy is not copies


def test_models_on_simulated_devices_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(NPU), "stands_in", lambda _: True)
    assert Settings.of({}).transfer_of(Model("cpu")).zero_copy is False


def test_every_setting_says_what_it_means() -> None:
    for field in attrs.fields(ExchangeConfig):
        assert field.metadata["meaning"].endswith(".")
        assert not hasattr(Config(), field.name)
