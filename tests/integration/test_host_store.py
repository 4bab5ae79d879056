"""Small values in a real worker."""

from __future__ import annotations

import uuid

import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core

pytestmark = pytest.mark.worker


@pytest.fixture
def store(worker: str) -> _core.ObjectStore:
    host, _, port = worker.rpartition(":")
    return _core.connect_host_store(_core.Connection(host, int(port), connect_timeout_s=5, rpc_timeout_s=5))


def test_keys_are_set_together_or_not_at_all(store: _core.ObjectStore) -> None:
    a, b, c = (uuid.uuid4().hex for _ in range(3))
    large = bytes(range(256)) * 4096
    assert store.set_all_if_absent({a: b"1", b: large}, ttl_s=60, deadline_s=5)
    assert store.get_many([a, c, b], deadline_s=5) == [b"1", None, large]
    assert not store.set_all_if_absent({b: b"other", c: b"3"}, ttl_s=60, deadline_s=5)
    assert store.get_many([a, b, c], deadline_s=5) == [b"1", large, None]
    assert not store.set_if_absent(a, b"other", ttl_s=60, deadline_s=5)
    store.erase([a, b, c], deadline_s=5)
    assert store.get_many([a, b, c], deadline_s=5) == [None] * 3


def test_more_keys_than_go_together_are_refused(store: _core.ObjectStore) -> None:
    keys = [uuid.uuid4().hex for _ in range(9)]
    with pytest.raises(fl.FastLoadError):
        store.set_all_if_absent(dict.fromkeys(keys, b"1"), ttl_s=60, deadline_s=5)
    assert store.get_many(keys, deadline_s=5) == [None] * 9
