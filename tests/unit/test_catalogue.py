"""Keys that are set unless they are there."""

from __future__ import annotations

import pytest

from yr_fastload_native import _core
from yr_fastload_native.catalogue import set_own
from yr_fastload_native.deadline import Deadline


class AsksTwice:
    """A store whose first answer is lost: the second is about the keys that the first call has set."""

    def __init__(self, store: _core.MemoryStore) -> None:
        self.get = store.get
        self._set = store.set_all_if_absent

    def set_all_if_absent(self, values: dict[str, bytes], **rest: float) -> bool:
        return self._set(values, **rest) and self._set(values, **rest)


@pytest.mark.parametrize("wrapped", [lambda store: store, AsksTwice])
def test_one_of_two_sets_its_own(wrapped) -> None:
    store = wrapped(_core.MemoryStore())
    first, second = {"a": b"same", "name": b"first"}, {"a": b"same", "name": b"second"}
    assert set_own(store, first, witness="name", ttl_s=60, deadline=Deadline(5, "test"))
    assert not set_own(store, second, witness="name", ttl_s=60, deadline=Deadline(5, "test"))
    assert store.get("name", deadline_s=5) == b"first"
