"""`tools/install.py`: uv installs from where pip would."""

import os
import sys
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import install

PIP = """
[global]
index-url = https://one.example/simple
extra-index-url =
    https://two.example/simple
    https://three.example/simple
cert = /of/all
timeout = 7
[install]
find-links = /wheels
no-index = true
[download]
index-url = https://four.example/simple
"""


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in [each for each in os.environ if each.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # the user's own settings
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CONSTRAINT", "/only/these.txt")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text(PIP)
    return install.settings()


def test_uv_installs_from_where_pip_would(configured):
    options = install.options(configured)
    pairs = list(pairwise(options))
    assert [value for option, value in pairs if option == "--default-index"] == ["https://one.example/simple"]
    extra = ["https://two.example/simple", "https://three.example/simple"]
    assert [value for option, value in pairs if option == "--index"] == extra
    assert ("--find-links", "/wheels") in pairs
    assert ("--constraint", "/only/these.txt") in pairs
    assert "--no-index" in options
    assert "--no-cache" not in options


def test_uv_gets_pips_certificates_and_patience_as_variables(configured):
    assert install.variables(configured) == {"SSL_CERT_FILE": "/of/all", "UV_HTTP_TIMEOUT": "7"}


def test_where_pip_is_told_nothing_uv_takes_its_own_defaults():
    assert install.options({}) == ["--index-strategy", "unsafe-best-match"]
    assert install.variables({}) == {}
