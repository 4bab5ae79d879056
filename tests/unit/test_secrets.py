"""Keys, tokens and tenants: read from safe files only, and shown nowhere."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import stat
import traceback
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

import yr_fastload_native as fl
from yr_fastload_native import _core, collect_env
from yr_fastload_native.cli.worker import worker as command
from yr_fastload_native.errors import InvalidArgumentError
from yr_fastload_native.settings.secret import Secret
from yr_fastload_native.vllm.settings import Settings
from yr_fastload_native.worker import LocalWorker, make_curve_keys
from yr_fastload_native.worker.credentials import Credentials

TEXT = "hunter2-and-more"
SETTINGS = {"access_key": f"ak-{TEXT}", "secret_key": f"sk-{TEXT}", "token": f"tk-{TEXT}", "tenant_id": f"te-{TEXT}"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("YR_FASTLOAD_"):
            monkeypatch.delenv(name)


def secret_file(path: Path, content: str | bytes = TEXT + "\n", mode: int = 0o600) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return str(path)


# -- shown nowhere ----------------------------------------------------------------------------------------------------


def test_a_secret_is_shown_only_when_asked_for() -> None:
    secret = Secret(TEXT)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>40}", f"{[secret]}"):
        assert TEXT not in shown
    assert secret.reveal() == TEXT
    assert not hasattr(secret, "__dict__")
    assert not Secret()
    assert repr(Secret()) == "Secret()"


def test_secrets_compare_and_travel() -> None:
    assert Secret(TEXT) == Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), Secret(TEXT)}) == 1
    assert pickle.loads(pickle.dumps(Secret(TEXT))) == copy.deepcopy(Secret(TEXT)) == Secret(TEXT)


@pytest.mark.parametrize(
    "value", ["two words", "line\nline", "tab\t", "\u00e9", "nul\0", "x" * 4097, None, 7, b"bytes"]
)
def test_what_is_no_secret_is_refused_without_showing_it(value: Any) -> None:
    for make in (lambda: Secret(value), lambda: fl.Config(secret_key=value)):
        with pytest.raises(InvalidArgumentError) as caught:
            make()
        assert str(value) not in str(caught.value)


def test_a_config_shows_none_of_them() -> None:
    config = fl.Config(**SETTINGS)
    assert config.secret_key.reveal() == SETTINGS["secret_key"]
    for shown in (repr(config), str(config), str(attrs.asdict(attrs.evolve(config, tenant_id="")))):
        assert TEXT not in shown
    assert TEXT not in repr(Credentials.of(config))
    assert TEXT not in repr(Credentials.of(config).connection("127.0.0.1:1", config))


def test_nothing_can_be_read_back_from_a_connection() -> None:
    connection = _core.Connection("h", 1, connect_timeout_s=1, rpc_timeout_s=1, secret_key=TEXT, token=TEXT)
    assert [name for name in dir(connection) if not name.startswith("_")] == []
    with pytest.raises(TypeError):
        pickle.dumps(connection)


def test_the_report_of_an_environment_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(f"YR_FASTLOAD_{name.upper()}", value)
    shown = json.dumps(collect_env.collect()["settings"], default=str)
    assert TEXT not in shown
    assert "Secret('***')" in shown
    assert "(not shown)" in shown


@pytest.mark.parametrize("name", ["access_key", "secret_key", "token"])
def test_a_bad_variable_is_named_and_not_shown(name: str) -> None:
    variable = f"YR_FASTLOAD_{name.upper()}"
    with pytest.raises(InvalidArgumentError, match=f"{variable} must be one line") as caught:
        fl.Config.from_env({variable: f"{TEXT} {TEXT}"})
    shown = "".join(traceback.format_exception(caught.value))
    assert TEXT not in shown


def test_a_bad_tenant_is_not_shown() -> None:
    for tenant in (f"{TEXT}$x", f"{TEXT}/x", f"{TEXT} x", TEXT * 20):
        with pytest.raises(InvalidArgumentError, match="tenant_id is not allowed") as caught:
            fl.Config(tenant_id=tenant)
        assert TEXT not in str(caught.value)


def test_a_connection_that_fails_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    config = fl.Config(worker="127.0.0.1:9", connect_timeout_s=0.5, rpc_timeout_s=0.5, **SETTINGS)
    with pytest.raises(fl.UnavailableError) as caught:
        fl.FastLoader(config)
    assert TEXT not in "".join(traceback.format_exception(caught.value))
    assert TEXT not in caplog.text


@pytest.mark.parametrize("name", ["access_key", "secret_key", "token"])
def test_vllm_takes_no_secret_as_an_argument(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match=f"use {name}_file, or the variable YR_FASTLOAD_{name.upper()}") as e:
        Settings.of({name: TEXT})
    assert TEXT not in str(e.value)
    path = secret_file(tmp_path / "secret")
    assert getattr(Settings.of({f"{name}_file": path}).transfer, f"{name}_file") == path
    monkeypatch.setenv(f"YR_FASTLOAD_{name.upper()}", TEXT)
    assert getattr(Settings.of({}).transfer, name) == Secret(TEXT)


@pytest.mark.parametrize("name", ["secretkey", "secret_kye", "tokne", "api_key", "password"])
def test_a_misspelt_secret_is_not_shown(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"'{name}', which is not a setting") as caught:
        Settings.of({name: TEXT})
    assert TEXT not in str(caught.value)
    with pytest.raises(InvalidArgumentError) as caught:
        Settings.of(TEXT)
    assert TEXT not in str(caught.value)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_gives_its_line(tmp_path: Path) -> None:
    for content in (TEXT, TEXT + "\n", TEXT + "\r\n"):
        assert Secret.from_file(secret_file(tmp_path / "s", content), "token_file").reveal() == TEXT
    (tmp_path / "link").symlink_to(tmp_path / "s")  # as a mounted secret is
    assert Secret.from_file(tmp_path / "link", "token_file").reveal() == TEXT


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o601, 0o644, 0o777])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path / "s", mode=mode)
    with pytest.raises(
        InvalidArgumentError, match=rf"token_file: '{path}' is open to others \(mode 0{mode:o}\); `chmod"
    ):
        Secret.from_file(path, "token_file")
    os.chmod(path, 0o400)
    assert Secret.from_file(path, "token_file")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = secret_file(tmp_path / "s")
    os.chown(path, 4242, -1)
    with pytest.raises(InvalidArgumentError, match="belongs to user 4242, who can read and change it"):
        Secret.from_file(path, "token_file")


@pytest.mark.parametrize("content", ["", "\n", "two words", "two\nlines", b"\xff\xfe", "x" * 5000])
def test_a_file_without_a_secret_is_refused_unshown(tmp_path: Path, content: str | bytes) -> None:
    path = secret_file(tmp_path / "s", content)
    with pytest.raises(InvalidArgumentError, match=f"secret_key_file: '{path}'") as caught:
        Secret.from_file(path, "secret_key_file")
    assert not content or content == "\n" or str(content) not in str(caught.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "is not a regular file"),
        (tmp_path / "pipe", "is not a regular file"),
        (tmp_path / "none", "cannot be read"),
    ):
        with pytest.raises(InvalidArgumentError, match=why):
            Secret.from_file(path, "token_file")


def test_settings_and_files_give_the_same(tmp_path: Path) -> None:
    given = fl.Config(access_key="ak", secret_key="sk", token="tk")
    files = {
        f"{n}_file": secret_file(tmp_path / n, t)
        for n, t in (("access_key", "ak"), ("secret_key", "sk"), ("token", "tk"))
    }
    assert Credentials.of(given) == Credentials.of(fl.Config(**files))
    with pytest.raises(InvalidArgumentError, match="both token and token_file are given"):
        Credentials.of(fl.Config(token="tk", token_file=files["token_file"]))


@pytest.mark.parametrize(("given", "missing"), [("access_key", "secret_key"), ("secret_key", "access_key")])
def test_half_a_pair_is_refused(given: str, missing: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{given} is given without {missing}"):
        Credentials.of(fl.Config(**{given: "x"}))


def test_a_loader_refuses_bad_files_before_it_does_anything(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="is open to others"):
        fl.FastLoader(fl.Config(worker="127.0.0.1:9", token_file=secret_file(tmp_path / "s", mode=0o644)))


# -- curve keys -------------------------------------------------------------------------------------------------------


def test_keys_are_made_private_and_once(tmp_path: Path) -> None:
    home = make_curve_keys(tmp_path / "keys")
    modes = {str(path.relative_to(home)): stat.S_IMODE(path.stat().st_mode) for path in [home, *home.rglob("*")]}
    files = {"client.key", "client.key_secret", "worker.key", "worker.key_secret"}
    authorized = {f"worker_authorized_clients/{name}.key" for name in ("client", "worker")}
    assert modes == {
        **dict.fromkeys((".", "worker_authorized_clients"), 0o700),
        **dict.fromkeys(files | authorized, 0o600),
    }
    assert (home / "client.key").read_text() == (home / "worker_authorized_clients/client.key").read_text()
    with pytest.raises(InvalidArgumentError, match="exists and is not an empty directory"):
        make_curve_keys(home)
    assert make_curve_keys(tmp_path / "more") != home
    assert (tmp_path / "more/client.key").read_text() != (home / "client.key").read_text()


def test_keys_reach_the_credentials_and_stay_unshown(tmp_path: Path) -> None:
    home = make_curve_keys(tmp_path / "keys")
    credentials = Credentials.of(fl.Config(curve_key_dir=str(home)))
    assert credentials.client_public_key == (home / "client.key").read_text()
    assert credentials.server_public_key == (home / "worker.key").read_text()
    assert credentials.client_private_key.reveal() == (home / "client.key_secret").read_text()
    assert (home / "client.key_secret").read_text() not in repr(credentials)


def test_bad_keys_are_named_and_not_shown(tmp_path: Path) -> None:
    home = make_curve_keys(tmp_path / "keys")
    config = fl.Config(curve_key_dir=str(home))
    private = home / "client.key_secret"
    text = private.read_text()
    private.write_text(text[:-1])
    with pytest.raises(InvalidArgumentError, match=r"client\.key_secret' holds no curve key") as caught:
        Credentials.of(config)
    assert text[:-1] not in str(caught.value)
    private.chmod(0o640)
    with pytest.raises(InvalidArgumentError, match=r"client\.key_secret' is open to others"):
        Credentials.of(config)
    (home / "worker.key").unlink()
    with pytest.raises(InvalidArgumentError, match=r"worker\.key' cannot be read: .*`yr-fastload worker keys` creates"):
        Credentials.of(config)


def test_a_worker_refuses_keys_that_others_can_read(tmp_path: Path, short_home: Path) -> None:
    home = make_curve_keys(tmp_path / "keys")
    (home / "worker.key_secret").chmod(0o644)
    with pytest.raises(InvalidArgumentError, match=r"worker\.key_secret' is open to others"):
        LocalWorker(home=short_home, curve_key_dir=home)
    with pytest.raises(InvalidArgumentError, match=r"curve_key_dir .* contains \['!'\], which dscli refuses"):
        LocalWorker(home=short_home, curve_key_dir=tmp_path / "what!")


def test_the_command_makes_keys(tmp_path: Path) -> None:
    shown = CliRunner().invoke(command, ["keys", str(tmp_path / "keys"), "--json"])
    assert json.loads(shown.output) == {"curve_key_dir": str(tmp_path / "keys")}
    again = CliRunner().invoke(command, ["keys", str(tmp_path / "keys")])
    assert isinstance(again.exception, InvalidArgumentError)
    text = CliRunner().invoke(command, ["keys", str(tmp_path / "other")]).output
    assert f"export YR_FASTLOAD_CURVE_KEY_DIR={tmp_path / 'other'}" in text
    assert (tmp_path / "other/client.key_secret").read_text() not in text
