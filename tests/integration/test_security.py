"""Who gets what from a real worker: curve keys, access keys, tenants; and that nothing of it is left lying around."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest_codec import decode_head
from yr_fastload_native.worker import make_curve_keys

from ..conftest import open_store, start_worker
from .secured import SYSTEM, iam_server, short_home, worker_with

pytestmark = pytest.mark.worker

QUICK = {"connect_timeout_s": 1.0, "rpc_timeout_s": 2.0, "deadline_s": 10.0}
TENANTS = {"ak-of-a": ("sk-of-a", "tenant-a"), "ak-of-b": ("sk-of-b", "tenant-b")}


@pytest.fixture(autouse=True)
def no_credentials_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """openYuanrong's client reads variables of its own where it is given nothing."""
    for name in list(os.environ):
        if name.startswith(("YR_FASTLOAD_", "DATASYSTEM_")):
            monkeypatch.delenv(name)


def weights(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"w": rng.random((512, 1024), dtype=np.float32), "b": rng.random(7, dtype=np.float32)}


def empty() -> dict[str, Any]:
    return {name: np.zeros_like(tensor) for name, tensor in weights().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


# -- curve keys -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_curve_keys(tmp_path_factory.mktemp("curve") / "keys")


@pytest.fixture(scope="module")
def locked(keys: Path) -> Iterator[fl.LocalWorker]:
    """A worker that answers only to clients with these keys."""
    with short_home() as home:
        worker = start_worker(home, 512, curve_key_dir=keys)
        try:
            yield worker
        finally:
            worker.stop(force=True)


def test_with_keys_weights_move(locked: fl.LocalWorker, keys: Path, identity: dict[str, str]) -> None:
    config = fl.Config(worker=locked.address, curve_key_dir=str(keys), **QUICK)
    target = empty()
    with fl.FastLoader(config) as first, fl.FastLoader(config) as second:
        first.publish(weights(), identity)
        assert second.load(target, identity).verified
    assert same(target, weights())


def test_without_keys_nothing(locked: fl.LocalWorker) -> None:
    with pytest.raises(fl.UnavailableError, match="answers nobody without them: set curve_key_dir"):
        fl.FastLoader(fl.Config(worker=locked.address, **QUICK))


def test_with_other_keys_nothing(locked: fl.LocalWorker, keys: Path, tmp_path: Path) -> None:
    other = make_curve_keys(tmp_path / "other")
    (other / "worker.key").write_text((keys / "worker.key").read_text())  # knows the worker, who does not know it
    with pytest.raises(fl.UnavailableError, match="one that does not know the keys of curve_key_dir"):
        fl.FastLoader(fl.Config(worker=locked.address, curve_key_dir=str(other), **QUICK))


def test_another_worker_cannot_pose_as_ours(locked: fl.LocalWorker, keys: Path, tmp_path: Path) -> None:
    mistaken = make_curve_keys(tmp_path / "mistaken")
    for name in ("client.key", "client.key_secret"):
        (mistaken / name).write_text((keys / name).read_text())
    with pytest.raises(fl.UnavailableError):  # the keys of a client are right, that of the worker is another's
        fl.FastLoader(fl.Config(worker=locked.address, curve_key_dir=str(mistaken), **QUICK))


@pytest.mark.parametrize("with_keys", [False, True])
def test_of_openyuanrong_too_nobody_gets_an_answer_without_keys(
    locked: fl.LocalWorker, keys: Path, with_keys: bool
) -> None:
    """Not our client refuses, but the worker."""
    host, port = locked.address.split(":")
    code = (
        "import json, sys; from yr.datasystem import KVClient\n"
        "client = KVClient(**json.load(sys.stdin)); client.init(); client.set('k', b'value')\n"
        "sys.stdout.write(bytes(client.get(['k'])[0]).decode())"
    )
    arguments: dict[str, Any] = {"host": host, "port": int(port), "connect_timeout_ms": 1000, "req_timeout_ms": 1000}
    if with_keys:
        names = {"client_public_key": "client.key", "client_private_key": "client.key_secret"}
        names["server_public_key"] = "worker.key"
        arguments |= {name: (keys / file).read_text() for name, file in names.items()}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(arguments), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode == 0, done.stdout) == (with_keys, "value" if with_keys else "")


def test_keys_are_in_no_argument_no_log_and_no_manifest(
    locked: fl.LocalWorker, keys: Path, identity: dict[str, str], tmp_path: Path
) -> None:
    config = fl.Config(worker=locked.address, curve_key_dir=str(keys), **QUICK)
    code = (
        "import sys, pathlib, yr_fastload_native as fl, numpy as np, json\n"
        "loader = fl.FastLoader()\n"
        "publication = loader.publish({'w': np.ones(100000, np.float32)}, json.loads(sys.argv[1]))\n"
        "arguments = pathlib.Path('/proc/self/cmdline').read_text()\n"
        "print(repr(arguments), repr(loader.config), loader.stats(), publication, flush=True)\n"
        "sys.stdin.read()\n"
    )
    environment = os.environ | {
        "YR_FASTLOAD_CURVE_KEY_DIR": str(keys),
        "YR_FASTLOAD_TENANT_ID": "tenant-of-the-child",
        "DS_WORKER_ADDR": locked.address,
        "DATASYSTEM_CLIENT_LOG_DIR": str(tmp_path / "logs"),
        "HOME": str(tmp_path / "home"),
    }
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(identity)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        shown = child.stdout.readline()
        stored = _manifest(config, identity, tenant_id="tenant-of-the-child")
        shown += child.communicate(timeout=60)[0]
    assert "<Publication" in shown
    status = fl.LocalWorker.status(Path(locked._home.path))
    assert status is not None
    seen = [shown.encode(), stored, Path(f"/proc/{status.pid}/cmdline").read_bytes()]
    seen += [path.read_bytes() for place in (tmp_path, status.home) for path in place.rglob("*") if path.is_file()]
    assert len(seen) > 10  # logs of the client and of the worker
    everything = b"\n".join(seen)
    for name in ("client.key_secret", "worker.key_secret"):
        assert (keys / name).read_bytes() not in everything
    assert b"tenant-of-the-child" not in b"\n".join([shown.encode(), stored])


def _manifest(config: fl.Config, identity: dict[str, str], tenant_id: str) -> bytes:
    """Head and manifest as they lie in the worker."""
    who = Identity.of(identity, op="test")
    store = open_store(fl.Config(worker=config.worker, curve_key_dir=config.curve_key_dir, tenant_id=tenant_id))
    head = store.get(who.head_key, deadline_s=5)
    assert head is not None
    manifest = store.get(who.manifest_key(decode_head(head, op="test").generation), deadline_s=5)
    assert manifest is not None
    return head + manifest


def test_a_local_worker_with_keys_listens_on_loopback_and_keeps_its_directories_private(
    locked: fl.LocalWorker,
) -> None:
    status = fl.LocalWorker.status(Path(locked._home.path))
    assert status is not None
    assert status.curve
    sockets = psutil.Process(status.pid).net_connections(kind="inet")
    listening = {each.laddr.ip.removeprefix("::ffff:") for each in sockets if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    directories = [status.home, *(path for path in status.home.rglob("*") if path.is_dir())]
    assert len(directories) > 5
    assert {path.stat().st_mode & 0o777 for path in directories} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in status.home.rglob("*") if path.is_file()} == {0o600}


def test_a_worker_without_keys_is_not_taken_for_one_with(own_worker: fl.LocalWorker, keys: Path) -> None:
    with pytest.raises(fl.UnavailableError, match="runs without curve keys; stop it first"):
        fl.LocalWorker(home=own_worker._home.path, curve_key_dir=keys).start()


# -- access keys and tenants ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Address of a worker that holds every client to the tenant of its access key."""
    with iam_server(TENANTS) as url, short_home() as home:
        flags = {"authorization_enable": "true", "iam_kit": "yuanrong_iam", "yuanrong_iam_url": url, **SYSTEM}
        with worker_with(home, flags) as worker:
            yield worker.address


def of_tenant(address: str, letter: str, **more: Any) -> fl.Config:
    known = {"access_key": f"ak-of-{letter}", "secret_key": f"sk-of-{letter}", "tenant_id": f"tenant-{letter}"}
    return fl.Config(worker=address, **QUICK, **{**known, **more})


def test_two_tenants_do_not_see_each_other(guarded: str, identity: dict[str, str]) -> None:
    target = empty()
    with fl.FastLoader(of_tenant(guarded, "a")) as a, fl.FastLoader(of_tenant(guarded, "b")) as b:
        a.publish(weights(1), identity)
        assert not b.is_published(identity)
        with pytest.raises(fl.NotPublishedError):
            b.load(target, identity)
        b.publish(weights(2), identity)  # of the same name, and neither replaces the other's
        with fl.FastLoader(of_tenant(guarded, "a")) as again:
            again.load(target, identity)
            assert same(target, weights(1))
        with fl.FastLoader(of_tenant(guarded, "b")) as again:
            again.load(target, identity)
            assert same(target, weights(2))


@pytest.mark.parametrize(
    "stranger",
    [
        {"access_key": "", "secret_key": "", "tenant_id": ""},
        {"access_key": "", "secret_key": ""},  # says whose it is, and shows nothing
        {"secret_key": "sk-of-b"},
        {"access_key": "ak-of-b", "secret_key": "sk-of-b"},  # one tenant's keys, another's name
        {"access_key": "ak-of-nobody"},
        {"tenant_id": ""},
    ],
)
def test_nobody_poses_as_a_tenant(guarded: str, identity: dict[str, str], stranger: dict[str, str]) -> None:
    with fl.FastLoader(of_tenant(guarded, "a")) as a:
        a.publish(weights(), identity)
        with pytest.raises(fl.UnavailableError, match="refuses this client; give it the access_key") as caught:
            fl.FastLoader(of_tenant(guarded, "a", **stranger))
    assert not any(secret in str(caught.value) for secret, _ in TENANTS.values())


def test_a_tenant_has_many_small_tensors(guarded: str, identity: dict[str, str]) -> None:
    """A manifest in shared memory, and chunks below a MiB: what openYuanrong allocates for several keys at once."""
    many = {f"layer.{i}.{'x' * 150}": np.full(300, i, np.float32) for i in range(4000)}
    target = {name: np.zeros_like(tensor) for name, tensor in many.items()}
    config = of_tenant(guarded, "a", chunk_bytes=256 << 10)
    with fl.FastLoader(config) as first, fl.FastLoader(config) as second:
        assert first.publish(many, identity).chunks > 10
        second.load(target, identity)
    assert same(target, many)


def test_what_a_tenant_fetches_by_another_ones_keys_is_not_there(guarded: str, identity: dict[str, str]) -> None:
    """Below our own code: knowing the name of a chunk does not help."""
    a, b = (open_store(of_tenant(guarded, letter)) for letter in "ab")
    with fl.FastLoader(of_tenant(guarded, "a")) as loader:
        publication = loader.publish(weights(), identity)
        key = _core.chunk_keys(Identity.of(identity, op="test").chunk_prefix(publication.generation), 1)
        assert a.exist(key, deadline_s=5) == [True]
        assert b.exist(key, deadline_s=5) == [False]
        assert b.get(key[0], deadline_s=5) is None
        b.erase(key, deadline_s=5)
        assert a.exist(key, deadline_s=5) == [True]


def test_the_keys_of_the_system_speak_for_every_tenant(short_tmp: Path, identity: dict[str, str]) -> None:
    """A worker with keys of its own and no IAM server wants keys, and believes the name of a tenant."""
    known = {"access_key": "system-ak", "secret_key": "system-sk"}
    with worker_with(short_tmp, SYSTEM) as worker:
        with pytest.raises(fl.UnavailableError, match="refuses this client"):
            fl.FastLoader(fl.Config(worker=worker.address, **QUICK))
        with pytest.raises(fl.UnavailableError, match="refuses this client"):
            fl.FastLoader(fl.Config(worker=worker.address, **QUICK, **{**known, "secret_key": "guess"}))
        with fl.FastLoader(fl.Config(worker=worker.address, **QUICK, **known, tenant_id="a")) as a:
            a.publish(weights(), identity)
            with fl.FastLoader(fl.Config(worker=worker.address, **QUICK, **known, tenant_id="b")) as b:
                assert not b.is_published(identity)
            with fl.FastLoader(fl.Config(worker=worker.address, **QUICK, **known, tenant_id="a")) as believed:
                assert believed.is_published(identity)


def test_tenants_of_an_open_worker_are_apart_by_name_alone(worker: str, identity: dict[str, str]) -> None:
    with fl.FastLoader(fl.Config(worker=worker, tenant_id="a")) as a, fl.FastLoader(fl.Config(worker=worker)) as nobody:
        a.publish(weights(), identity)
        assert not nobody.is_published(identity)
        with fl.FastLoader(fl.Config(worker=worker, tenant_id="b")) as b:
            assert not b.is_published(identity)
        with fl.FastLoader(fl.Config(worker=worker, tenant_id="a")) as believed:
            assert believed.is_published(identity)
