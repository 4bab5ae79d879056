"""Device to device with a worker that wants curve keys and access keys, and holds clients to their tenants."""

from __future__ import annotations

import os

import pytest

from yr_fastload_native.worker import make_curve_keys

from ..integration.secured import SYSTEM, iam_server, short_home, worker_with
from .kinds import kinds_and_transports

pytestmark = pytest.mark.worker


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Address of such a worker, and the settings of a tenant."""
    keys = make_curve_keys(tmp_path_factory.mktemp("curve") / "keys")
    with iam_server({f"ak-{letter}": (f"sk-{letter}", f"tenant-{letter}") for letter in "ab"}) as url:
        flags = {"authorization_enable": "true", "iam_kit": "yuanrong_iam", "yuanrong_iam_url": url, **SYSTEM}
        flags |= {"enable_curve_zmq": "true", "curve_key_dir": str(keys)}
        with short_home() as home, worker_with(home, flags, memory_mb=1024) as worker:

            def tenant(letter):
                known = {"access_key": f"ak-{letter}", "secret_key": f"sk-{letter}", "tenant_id": f"tenant-{letter}"}
                return {"curve_key_dir": str(keys), **known}

            yield worker.address, tenant


@pytest.fixture
def secured_node(guarded, tmp_path, kind):
    from nodes import Node

    made = []
    clean = {name: "" for name in os.environ if name.startswith("DATASYSTEM_")}

    def make(name):
        made.append(Node(guarded[0], tmp_path, name, len(made) % 8, kind, **clean))
        return made[-1]

    yield make
    for each in made:
        each.close()


@kinds_and_transports(never=[("ascend", "host"), ("cuda", "host")], later=[("ascend", "staged")])
def test_weights_move_within_a_tenant_and_to_no_other(guarded, secured_node, model, transport):
    _, tenant = guarded
    source, reader, other, stranger = (secured_node(name) for name in ("source", "reader", "other", "stranger"))
    published = source.call("publish", model=model, settings={"publish_as": transport, **tenant("a")})
    assert published["state"] == "live"
    read = reader.call("load", model=model, settings=tenant("a"))
    assert (read["equal"], read["transport"], read["retried"]) == (True, transport, 0)
    assert other.call("load", model=model, settings=tenant("b"))["error"] == "NOT_PUBLISHED"
    answer = stranger.call("load", model=model, settings={"connect_timeout_s": 1.0})
    assert answer["error"] == "UNAVAILABLE"
    assert "answers nobody without them: set curve_key_dir" in answer["message"]
