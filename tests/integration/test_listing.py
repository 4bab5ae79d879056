"""``yr-fastload ls | inspect | evict``, through a real worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.cli import main

from ..waiting import wait_until

pytestmark = pytest.mark.worker

BASE = np.arange(1000, dtype=np.uint8)
WEIGHTS = {"a": BASE, "tied": BASE, "part": BASE[10:20], "b": np.ones((20, 3), np.float32), "none": np.ones((0, 2))}


def run(command: str, worker: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [command, "--worker", worker, *arguments])


def answer(command: str, worker: str, *arguments: str) -> dict[str, Any]:
    done = run(command, worker, "--json", *arguments)
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert isinstance(record, dict)
    return record


def listed(worker: str, identity: dict[str, Any]) -> dict[str, Any] | None:
    digest = Identity.of(identity, op="test").digest
    found = [each for each in answer("ls", worker)["published"] if each["identity"] == digest]
    assert len(found) < 2
    return found[0] if found else None


def test_what_is_published_is_listed(
    loader: fl.FastLoader, other_loader: fl.FastLoader, worker: str, identity: dict[str, Any]
) -> None:
    identity |= {"model": "some/model", "ranks": {"tp": [1, 2], "pp": [0, 1]}}
    assert listed(worker, identity) is None
    publication = loader.publish(WEIGHTS, identity)
    assert wait_until(lambda: listed(worker, identity) is not None)
    found = listed(worker, identity)
    assert found is not None
    assert found["fields"] == identity
    assert found["generation"] == publication.generation
    assert (found["transports"], found["tensors"], found["bytes"]) == (["host"], 5, 1240)
    assert len(found["sources"]) == 1
    assert 0 <= found["age_s"] < 60
    other_loader.publish(WEIGHTS, identity)
    assert wait_until(lambda: len((listed(worker, identity) or {"sources": []})["sources"]) == 2)
    row = next(line for line in run("ls", worker).stdout.splitlines() if found["identity"][:12] in line)
    cells = ["some/model", "tp", "1/2", publication.generation[-8:], "host", "2", "5", "0.000", "0:00:0"]
    assert all(cell in row for cell in cells), row
    publication.close()
    assert listed(worker, identity) is not None  # by the other
    other_loader.close()
    assert listed(worker, identity) is None


def test_what_is_said_about_weights_is_shown_and_keeps_nobody_from_them(
    loader: fl.FastLoader, other_loader: fl.FastLoader, worker: str, identity: dict[str, Any]
) -> None:
    identity.pop("model", None)
    mine = identity | {"about": {"model": "some/model", "max_model_len": 128}}
    loader.publish({"a": BASE}, mine)
    target = {"a": np.empty_like(BASE)}
    other_loader.load(target, identity | {"about": "another's"})
    assert (target["a"] == BASE).all()
    assert wait_until(lambda: listed(worker, mine) is not None)
    digest = Identity.of(identity, op="test").digest
    assert any("some/model" in line for line in run("ls", worker).stdout.splitlines() if digest[:12] in line)
    assert mine in other_loader.identities()


def test_a_tensor_table(loader: fl.FastLoader, worker: str, identity: dict[str, Any]) -> None:
    loader.publish(WEIGHTS, identity)
    digest = Identity.of(identity, op="test").digest
    assert wait_until(lambda: listed(worker, identity) is not None)
    found = answer("inspect", worker, digest[:16].upper())
    assert found["identity"] == digest
    tensors = {each["name"]: each for each in found["table"]}
    assert tensors["a"] == {
        "name": "a",
        "dtype": "uint8",
        "shape": [1000],
        "strides": [1],
        "bytes": 1000,
        "chunk": 0,
        "offset": 0,
        "lies_in": None,
    }
    assert (tensors["tied"]["lies_in"], tensors["tied"]["chunk"]) == ("a", None)
    assert tensors["part"]["lies_in"] == "a"
    assert (tensors["none"]["bytes"], tensors["none"]["chunk"]) == (0, None)
    text = run("inspect", worker, digest).stdout
    assert identity["unique"] in text
    assert next(line for line in text.splitlines() if line.startswith("b ")).split() == [
        "b",
        "float32",
        "20x3",
        "240",
        "0",
    ]


@pytest.mark.parametrize("command", ["inspect", "evict"])
def test_what_fits_none_or_several(loader: fl.FastLoader, worker: str, identity: dict[str, Any], command: str) -> None:
    for number in range(2):
        loader.publish(WEIGHTS, identity | {"number": number})
    assert wait_until(lambda: listed(worker, identity | {"number": 1}) is not None)
    several = run(command, worker, "")
    assert several.exit_code == 1
    assert "error: INVALID_ARGUMENT" in several.stderr
    assert "give more digits" in several.stderr
    none = run(command, worker, "xyz")
    assert none.exit_code == 1
    assert "error: NOT_PUBLISHED" in none.stderr
    assert "yr-fastload ls" in none.stderr


def test_what_is_evicted_is_gone(worker: str, store: _core.ObjectStore, identity: dict[str, Any]) -> None:
    who = Identity.of(identity, op="test")
    with (
        fl.FastLoader(fl.Config(worker=worker, lease_s=2)) as loader,
        fl.FastLoader(fl.Config(worker=worker)) as reader,
    ):
        publication = loader.publish(WEIGHTS, identity)
        assert wait_until(lambda: listed(worker, identity) is not None)
        name = publication.generation
        keys = [who.head_key, who.manifest_key(name), *_core.chunk_keys(who.chunk_prefix(name), publication.chunks)]
        found = answer("evict", worker, who.digest[:20])["evicted"]
        assert [each["identity"] for each in found] == [who.digest]
        with pytest.raises(fl.NotPublishedError):
            reader.load({key: value.copy() for key, value in WEIGHTS.items()}, identity)
        assert not any(store.exist(keys, deadline_s=5))
        assert wait_until(lambda: publication.state == "lost")
        assert wait_until(lambda: publication.origin is None)  # its source has looked, and does not bring it back
        assert not any(store.exist(keys, deadline_s=5))
        assert not reader.is_published(identity)
        again = run("evict", worker, who.digest)
        assert again.exit_code == 1
        assert "NOT_PUBLISHED" in again.stderr
        loader.publish(WEIGHTS, identity)
        assert reader.is_published(identity)


def test_everything_is_evicted(own_worker: fl.LocalWorker, identity: dict[str, Any]) -> None:
    address = own_worker.address
    assert run("ls", address).stdout == "nothing is published\n"
    assert run("evict", address, "--all").stdout == "nothing is published\n"
    with fl.FastLoader(fl.Config(worker=address)) as loader:
        for number in range(3):
            loader.publish(WEIGHTS, identity | {"number": number})
        assert wait_until(lambda: len(answer("ls", address)["published"]) == 3)
        lines = run("evict", address, "--all").stdout.splitlines()
        assert len(lines) == 3
        assert all(line.startswith("evicted ") and line.endswith("1 sources)") for line in lines)
        assert answer("ls", address) == {"published": [], "damaged": {}}


def test_a_damaged_manifest_hides_no_other(
    loader: fl.FastLoader, worker: str, store: _core.ObjectStore, identity: dict[str, Any]
) -> None:
    damaged = identity | {"damaged": True}
    publication = loader.publish(WEIGHTS, damaged)
    loader.publish(WEIGHTS, identity)
    assert wait_until(lambda: listed(worker, damaged) is not None and listed(worker, identity) is not None)
    who = Identity.of(damaged, op="test")
    store.set(who.manifest_key(publication.generation), b"{}", ttl_s=60, deadline_s=5)
    found = answer("ls", worker)
    assert identity in loader.identities()
    assert damaged not in loader.identities()
    assert "not the one that the head names" in found["damaged"][who.digest]
    assert listed(worker, identity) is not None
    assert f"{who.digest[:12]} cannot be read" in run("ls", worker).stdout
    assert "error: INTEGRITY" in run("evict", worker, who.digest).stderr


def test_no_worker_is_started_to_look(monkeypatch: pytest.MonkeyPatch, short_tmp: Path) -> None:
    for name in ("DS_WORKER_ADDR", "YR_FASTLOAD_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("YR_FASTLOAD_WORKER_HOME", str(short_tmp / "w"))
    for command in (["ls"], ["inspect", "x"], ["evict", "x"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: UNAVAILABLE: {command[0]}: no local openYuanrong worker is running")
    assert CliRunner().invoke(main, ["evict"]).exit_code == 2
    assert CliRunner().invoke(main, ["evict", "--all", "x"]).exit_code == 2
