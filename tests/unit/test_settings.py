"""Every bound of every setting, and the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings import ENVIRONMENT_PREFIX, SECRETS, Config, host_of, is_loopback, parse_address
from yr_fastload_native.settings.secret import Secret

MIB = 1 << 20

# Setting: lowest, highest, and what is just outside.
BOUNDS: dict[str, tuple[Any, Any, Any, Any]] = {
    "deadline_s": (0.01, 86400, 0.009, 86400.1),
    "publish_deadline_s": (0.01, 86400, 0.009, 86400.1),
    "connect_timeout_s": (0.5, 600, 0.49, 600.1),
    "rpc_timeout_s": (0.1, 600, 0.09, 600.1),
    "lease_s": (2, 3600, 1, 3601),
    "data_grace_s": (1, 3600, 0, 3601),
    "chunk_bytes": (0, 1 << 30, -64, (1 << 30) + 64),
    "max_blobs": (1, 65536, 0, 65537),
    "copy_threads": (0, 256, -1, 257),
    "device_index": (-1, 1023, -2, 1024),
    "chunks_ahead": (1, 64, 0, 65),
    "source_stall_s": (0.05, 3600, 0.04, 3601),
    "chunks_in_flight": (1, 1024, 0, 1025),
    "staging_bytes": (0, 1 << 40, -1, (1 << 40) + 1),
    "max_tensors": (1, 1 << 32, 0, (1 << 32) + 1),
    "max_manifest_bytes": (1024, 1 << 31, 1023, (1 << 31) + 1),
    "worker_memory_mb": (0, 1 << 30, -1, (1 << 30) + 1),
    "worker_start_timeout_s": (1, 3600, 0.9, 3601),
}
CHOICES = {
    "transport": ("auto", "d2d", "staged", "host"),
    "verify": ("digest", "layout"),
    "staging": ("auto", "always"),
    "pin": ("slots", "pool"),
}
SECRET_TEXTS = ("access_key", "secret_key", "token")
PATHS = ("worker_home", "curve_key_dir", "access_key_file", "secret_key_file", "token_file")
SWITCHES = {"hold": ("0", False), "zero_copy": ("1", True), "publish_sha256": ("1", True)}
TEXTS = {
    **{name: (str(high), high) for name, (_, high, _, _) in BOUNDS.items()},
    **{name: (last, last) for name, (*_, last) in CHOICES.items()},
    "worker": ("10.0.0.1:31501", "10.0.0.1:31501"),
    **SWITCHES,
    "publish_as": ("d2d+staged", "d2d+staged"),
    **{name: ("s3cret", Secret("s3cret")) for name in SECRET_TEXTS},
    **dict.fromkeys(PATHS, ("/some/where", "/some/where")),
    "tenant_id": ("team-a", "team-a"),
    "trusted_digests": (f"{'a' * 64},{'0' * 64}", f"{'a' * 64},{'0' * 64}"),
}
FIELDS = {field.name: field for field in attrs.fields(Config)}


def test_the_tables_above_cover_every_setting() -> None:
    others = {"worker", "publish_as", "tenant_id", "trusted_digests"}
    assert {*BOUNDS, *CHOICES, *SWITCHES, *SECRET_TEXTS, *PATHS, *others} == set(FIELDS) == set(TEXTS)
    assert set(SECRET_TEXTS) == SECRETS


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    low, high, below, above = BOUNDS[name]
    for value in (low, high):
        assert getattr(Config(**{name: value}), name) == value
    for value in (below, above):
        with pytest.raises(InvalidArgumentError, match=f"^config: {name}=.* is not allowed; use") as caught:
            Config(**{name: value})
        assert str(low) in str(caught.value)


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_are_numbers(name: str) -> None:
    default = FIELDS[name].default
    bad: list[Any] = [True, False, str(default), None, [default], float("nan"), float("inf"), complex(default)]
    if isinstance(default, int):
        bad.append(float(default))
    for value in bad:
        with pytest.raises(InvalidArgumentError, match=name):
            Config(**{name: value})


@pytest.mark.parametrize("pins", ["a" * 63, "A" * 64, "a" * 64 + ",", "a" * 64 + " ", "g" * 64, None, ["a" * 64]])
def test_trusted_digests_are_sums(pins: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"trusted_digests=.*64 lower-case hex digits"):
        Config(trusted_digests=pins)


def test_seconds_may_be_whole_numbers() -> None:
    assert Config(deadline_s=3).deadline_s == 3


@pytest.mark.parametrize("chunk_bytes", [65, 100, MIB + 1])
def test_chunks_are_aligned(chunk_bytes: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"chunk_bytes={chunk_bytes} .* multiple of 64"):
        Config(chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(Config(**{name: value}), name) == value
    for value in ("", "other", CHOICES[name][0].upper(), None, 1, True):
        with pytest.raises(InvalidArgumentError, match=f"{name}=.*{' or '.join(CHOICES[name])}"):
            Config(**{name: value})


@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_hold_is_true_or_false(value: Any) -> None:
    assert Config(hold=False).hold is False
    with pytest.raises(InvalidArgumentError, match="hold="):
        Config(hold=value)
    with pytest.raises(InvalidArgumentError, match="zero_copy="):
        Config(zero_copy=value)


@pytest.mark.parametrize(
    ("given", "value"), [("on", True), (True, True), ("off", False), (False, False), ("auto", "auto")]
)
def test_a_switch_is_on_off_or_left_open(given: Any, value: Any) -> None:
    assert Config(zero_copy=given).zero_copy == value
    with pytest.raises(InvalidArgumentError, match="zero_copy='On' is not allowed; use auto, on or off"):
        Config(zero_copy="On")


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("TRUE", True), ("1", True), ("off", False), ("0", False), ("auto", "auto")]
)
def test_a_switch_comes_from_its_variable(text: str, value: Any) -> None:
    assert Config.from_env({"YR_FASTLOAD_ZERO_COPY": text}).zero_copy == value
    with pytest.raises(InvalidArgumentError, match="zero_copy='' is not allowed"):
        Config.from_env({"YR_FASTLOAD_ZERO_COPY": ""})


GOOD_ADDRESSES = [("h:1", ("h", 1)), ("127.0.0.1:65535", ("127.0.0.1", 65535)), ("[::1]:31501", ("[::1]", 31501))]
BAD_ADDRESSES = ["", "host", ":1", "h:", "h:0", "h:65536", "h:-1", "h: 1", "h:1_0", "h:\u0661", "h:1.0", "h:port"]


@pytest.mark.parametrize(("address", "parts"), GOOD_ADDRESSES)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address, op="connect") == parts
    assert Config(worker=address).worker == address


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^connect: .*HOST:PORT"):
        parse_address(address, op="connect")
    with pytest.raises(InvalidArgumentError, match="HOST:PORT"):
        Config(worker=address)


@pytest.mark.parametrize("worker", [None, 1, b"h:1", ("h", 1)])
def test_an_address_is_text(worker: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="worker="):
        Config(worker=worker)


def test_a_config_does_not_change() -> None:
    config = Config()
    for name, value in attrs.asdict(config).items():
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(config, name, value)
    assert attrs.evolve(config, lease_s=7).lease_s == 7
    assert config == Config()
    with pytest.raises(InvalidArgumentError, match="lease_s"):
        attrs.evolve(config, lease_s=0)


def test_settings_have_names() -> None:
    with pytest.raises(TypeError):
        Config("auto")
    with pytest.raises(TypeError, match="chunk_byte"):
        Config(chunk_byte=64)


def test_every_setting_says_what_it_means_and_its_unit() -> None:
    for name, field in FIELDS.items():
        assert field.metadata["meaning"].endswith(".")
        unit = {"_s": "s", "_bytes": "bytes", "_mb": "MiB"}
        expected = next((unit[end] for end in unit if name.endswith(end)), "")
        assert field.metadata["unit"] == expected, name


# -- environment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_every_setting_comes_from_its_variable(name: str) -> None:
    text, value = TEXTS[name]
    config = Config.from_env({ENVIRONMENT_PREFIX + name.upper(): text, "OTHER": "1"})
    assert getattr(config, name) == value != FIELDS[name].default
    assert config == attrs.evolve(Config(), **{name: value})


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("True", True), ("0", False), ("FALSE", False)]
)
def test_true_and_false(text: str, value: bool) -> None:
    assert Config.from_env({"YR_FASTLOAD_HOLD": text}).hold is value


def test_nothing_set_gives_the_defaults() -> None:
    assert Config.from_env({}) == Config()


@pytest.mark.parametrize("name", [*BOUNDS, "hold"])
def test_text_of_another_type_names_the_variable(name: str) -> None:
    variable = ENVIRONMENT_PREFIX + name.upper()
    for text in ("", "many", "1x", "0x10", "None", "9" * 5000 + "x"):
        with pytest.raises(InvalidArgumentError, match=f"^config: {variable}=.* is not"):
            Config.from_env({variable: text})


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in {*SWITCHES, *PATHS}])
def test_text_out_of_bounds_is_refused(name: str) -> None:
    text = {"deadline_s": "nan", "worker": "nowhere", "device_index": "-2", "tenant_id": "a$b"}.get(name, "-1")
    text = "two words" if name in SECRET_TEXTS else text
    with pytest.raises(InvalidArgumentError):
        Config.from_env({ENVIRONMENT_PREFIX + name.upper(): text})


def test_what_is_given_wins_over_the_environment() -> None:
    environ = {"YR_FASTLOAD_LEASE_S": "not read", "YR_FASTLOAD_MAX_BLOBS": "7"}
    config = Config.from_env(environ, lease_s=5)
    assert (config.lease_s, config.max_blobs) == (5, 7)


def test_a_variable_that_names_no_setting_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert Config.from_env({"YR_FASTLOAD_CHUNK_BYTE": "64", "YR_FASTLOAD_WORKER_PORT": "31501"}) == Config()
    assert [record.getMessage() for record in caplog.records] == [
        "YR_FASTLOAD_CHUNK_BYTE names no setting and is ignored; did you mean 'YR_FASTLOAD_CHUNK_BYTES'?",
        "YR_FASTLOAD_WORKER_PORT names no setting and is ignored; did you mean 'YR_FASTLOAD_WORKER'?",
    ]


@pytest.mark.parametrize("service", ["", "_SERVE", "_WORKER", "_LEASE_S"])
def test_variables_of_kubernetes_services_are_others(service: str, caplog: pytest.LogCaptureFixture) -> None:
    """Of a Service called yr-fastload, or so in front."""
    environ = {
        "SERVICE_HOST": "10.96.0.7",
        "SERVICE_PORT": "9000",
        "SERVICE_PORT_HTTP": "9000",
        "PORT": "tcp://10.96.0.7:9000",
        "PORT_9000_TCP": "tcp://10.96.0.7:9000",
        "PORT_9000_TCP_PROTO": "tcp",
        "PORT_9000_TCP_PORT": "9000",
        "PORT_9000_TCP_ADDR": "10.96.0.7",
    }
    assert Config.from_env({f"YR_FASTLOAD{service}_{name}": text for name, text in environ.items()}) == Config()
    assert not caplog.records


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YR_FASTLOAD_LEASE_S", "77")
    monkeypatch.setenv("DS_WORKER_ADDR", "h:1")
    assert Config.from_env().lease_s == 77
    assert Config().lease_s == FIELDS["lease_s"].default  # only from_env reads it
    assert Config.worker_from_env() == "h:1"


def test_worker_of_the_environment() -> None:
    assert Config.worker_from_env({"DS_WORKER_ADDR": "10.0.0.1:5"}) == "10.0.0.1:5"
    assert Config.worker_from_env({"DS_WORKER_ADDR": ""}) is None
    assert Config.worker_from_env({}) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/me"}, "/cache"),
        ({"XDG_CACHE_HOME": "not absolute", "HOME": "/home/me"}, "/home/me/.cache"),
        ({"HOME": "/home/me"}, "/home/me/.cache"),
        ({"HOME": "/"}, None),
        ({}, None),
    ],
)
def test_where_a_user_keeps_what_can_be_made_again(environ: dict[str, str], expected: str | None) -> None:
    assert Config.cache_directory(environ) == (None if expected is None else Path(expected))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]"])
def test_what_no_other_machine_reaches_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.2", "machine-1", "[fd00::3]", "0.0.0.0", ""])
def test_what_others_may_reach_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "host"), [("10.0.0.2:31501", "10.0.0.2"), ("[::1]:31501", "::1"), ("node-3:1", "node-3"), ("", "")]
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host
