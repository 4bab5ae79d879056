"""A server whose model's directory is not on its machine gets the small files of it from an instance."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import yr_fastload_native as fl
from yr_fastload_native.errors import NotPublishedError
from yr_fastload_native.service.launcher import Model, Order
from yr_fastload_native.service.model_files import at_hand
from yr_fastload_native.service.vllm_server import VllmServer
from yr_fastload_native.vllm.model_files import description, publish_model

pytestmark = pytest.mark.worker


def order_of(model: str, *more: str) -> Order:
    return VllmServer(model, arguments=more).order("instance-1")


def test_the_directory_is_put_into_the_order(worker: str, tmp_path: Path) -> None:
    there = tmp_path / "there" / "toy"
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}")
    with fl.FastLoader(fl.Config(worker=worker)) as loader:
        about = description(str(there), "files:0", {})
        publish_model(loader, about, architectures=[], cache_root=tmp_path, code=False)
        order = order_of(str(there))
        environment = {**os.environ, "DS_WORKER_ADDR": worker, "XDG_CACHE_HOME": str(tmp_path / "here")}
        assert at_hand(order, environment) is order
        there.rename(tmp_path / "elsewhere")
        changed = list(at_hand(order, environment).arguments)
        directory = Path(changed[changed.index("serve") + 1])
        assert directory.is_relative_to(tmp_path / "here")
        assert (directory / "config.json").read_text() == "{}"
        assert changed[-2:] == ["--served-model-name", str(there)]
        named = at_hand(order_of(str(there), "--served-model-name=toy"), environment)
        assert named.arguments[-1] == "--served-model-name=toy"


def test_nobody_publishes_it(worker: str, tmp_path: Path, short_home: Path) -> None:
    order = order_of(str(tmp_path / "nowhere"))
    with pytest.raises(NotPublishedError, match=r"nowhere is not on this machine.*NOT_PUBLISHED|no live source"):
        at_hand(order, {**os.environ, "DS_WORKER_ADDR": worker})
    alone = {name: value for name, value in os.environ.items() if name != "DS_WORKER_ADDR"}
    with pytest.raises(NotPublishedError, match="no openYuanrong worker is running"):
        at_hand(order, {**alone, "YR_FASTLOAD_WORKER_HOME": str(short_home / "none")})


def test_how_options_are_spelt() -> None:
    order = order_of("/m", "--trust_remote_code", "--served-model-name", "m")
    assert order.model == Model("/m", code=True, is_named=True)
    assert order_of("/m").model == Model("/m")
