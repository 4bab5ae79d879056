"""What every store does, that of a real worker and that of tests: one suite for both."""

from __future__ import annotations

import os
import threading
import uuid
from array import array
from collections.abc import Callable

import numpy as np
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core

LARGE = bytes(range(256)) * 4096
S = 10.0


def map_chunks(store: _core.ObjectStore, prefix: str, chunks: list[int]) -> list[_core.PrivateMemory | None]:
    reader = _core.StoreReader(store, prefix, first_batch=1, batch=8)
    return _core.map_chunks(reader, chunks, deadline_s=S)


class StoreConformance:
    """A subclass brings the fixtures ``store`` and ``pass_time``, which lets TTLs run down by some seconds."""

    @pytest.fixture
    def prefix(self) -> str:
        """Begins keys that no other test uses."""
        return f"{uuid.uuid4().hex}-"

    # -- values -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("value", [b"\0", b"text", LARGE])
    def test_a_value_is_what_was_set(self, store: _core.ObjectStore, prefix: str, value: bytes) -> None:
        store.set(prefix, value, ttl_s=60, deadline_s=S)
        assert store.get(prefix, deadline_s=S) == value
        assert store.get_many([prefix], deadline_s=S) == [value]

    def test_a_value_is_replaced(self, store: _core.ObjectStore, prefix: str) -> None:
        for value in (b"first", LARGE, b"another"):
            store.set(prefix, value, ttl_s=60, deadline_s=S)
            assert store.get(prefix, deadline_s=S) == value

    def test_what_is_not_there_is_none(self, store: _core.ObjectStore, prefix: str) -> None:
        store.set(prefix, b"there", ttl_s=60, deadline_s=S)
        missing = prefix + "missing"
        assert store.get(missing, deadline_s=S) is None
        assert store.get_many([missing, prefix, missing + "2"], deadline_s=S) == [None, b"there", None]
        assert store.get_many([missing], deadline_s=S) == [None]
        assert store.get_many([], deadline_s=S) == []
        assert store.exist([missing, prefix], deadline_s=S) == [False, True]
        assert store.exist([], deadline_s=S) == []

    def test_more_keys_than_openyuanrong_takes_at_once(self, store: _core.ObjectStore, prefix: str) -> None:
        keys = [f"{prefix}{number}" for number in range(2500)]
        for number in (0, 999, 1000, 2499):
            store.set(keys[number], b"%d" % number, ttl_s=60, deadline_s=S)
        there = store.exist(keys, deadline_s=S)
        assert [number for number, is_there in enumerate(there) if is_there] == [0, 999, 1000, 2499]
        values = store.get_many(keys, deadline_s=S)
        assert {number: value for number, value in enumerate(values) if value is not None} == {
            0: b"0", 999: b"999", 1000: b"1000", 2499: b"2499",
        }  # fmt: skip
        assert len(store.expire(keys, ttl_s=60, deadline_s=S)) == 2496
        store.erase(keys, deadline_s=S)
        assert not any(store.exist(keys, deadline_s=S))

    def test_what_is_erased_is_gone(self, store: _core.ObjectStore, prefix: str) -> None:
        store.set(prefix, b"there", ttl_s=60, deadline_s=S)
        for _ in range(2):
            store.erase([prefix, prefix + "missing"], deadline_s=S)
            assert store.get(prefix, deadline_s=S) is None

    # -- values that are set unless they are there ----------------------------------------------------------------

    def test_keys_are_set_together_or_not_at_all(self, store: _core.ObjectStore, prefix: str) -> None:
        a, b, c = (prefix + name for name in "abc")
        assert store.set_all_if_absent({a: b"1", b: LARGE}, ttl_s=60, deadline_s=S)
        assert store.get_many([a, c, b], deadline_s=S) == [b"1", None, LARGE]
        assert not store.set_all_if_absent({b: b"other", c: b"3"}, ttl_s=60, deadline_s=S)
        assert store.get_many([a, b, c], deadline_s=S) == [b"1", LARGE, None]
        assert not store.set_if_absent(a, b"other", ttl_s=60, deadline_s=S)
        store.erase([a, b, c], deadline_s=S)
        assert store.get_many([a, b, c], deadline_s=S) == [None] * 3
        assert store.set_if_absent(a, b"other", ttl_s=60, deadline_s=S)

    def test_more_keys_than_go_together_are_refused(self, store: _core.ObjectStore, prefix: str) -> None:
        keys = [f"{prefix}{number}" for number in range(9)]
        assert store.set_all_if_absent(dict.fromkeys(keys[:8], b"1"), ttl_s=60, deadline_s=S)
        store.erase(keys, deadline_s=S)
        with pytest.raises(fl.InvalidArgumentError):
            store.set_all_if_absent(dict.fromkeys(keys, b"1"), ttl_s=60, deadline_s=S)
        assert store.get_many(keys, deadline_s=S) == [None] * 9

    def test_of_many_that_set_one_key_one_does(self, store: _core.ObjectStore, prefix: str) -> None:
        together = threading.Barrier(4)
        won: list[int] = []

        def race(number: int) -> None:
            for attempt in range(10):
                together.wait(30)
                if store.set_if_absent(f"{prefix}{attempt}", b"%d" % number, ttl_s=60, deadline_s=S):
                    won.append(attempt)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(won) == list(range(10))

    # -- time to live ---------------------------------------------------------------------------------------------

    def test_what_nobody_renews_is_gone(
        self, store: _core.ObjectStore, prefix: str, pass_time: Callable[[float], None]
    ) -> None:
        short, renewed, long = (prefix + name for name in ("short", "renewed", "long"))
        assert store.set_if_absent(short, b"1", ttl_s=1, deadline_s=S)
        store.set(renewed, b"2", ttl_s=1, deadline_s=S)
        store.set(long, b"3", ttl_s=60, deadline_s=S)
        assert store.expire([renewed, prefix + "missing"], ttl_s=60, deadline_s=S) == [prefix + "missing"]
        pass_time(2.5)
        assert store.exist([short, renewed, long], deadline_s=S) == [False, True, True]
        assert store.get(short, deadline_s=S) is None
        assert store.expire([short], ttl_s=60, deadline_s=S) == [short]
        assert store.set_if_absent(short, b"anew", ttl_s=60, deadline_s=S)

    # -- keys -----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["with.dot", "with/slash", "k" * 256, "", "umläut"])
    def test_what_is_no_key_is_refused(self, store: _core.ObjectStore, key: str) -> None:
        with pytest.raises(fl.InvalidArgumentError):
            store.set(key, b"x", ttl_s=5, deadline_s=S)

    def test_what_a_key_may_be(self, store: _core.ObjectStore, prefix: str) -> None:
        for key in (prefix + "azAZ09-_!@#%^*()+=:;", prefix.ljust(255, "k")):
            store.set(key, b"x", ttl_s=60, deadline_s=S)
            assert store.get(key, deadline_s=S) == b"x"

    # -- chunks ---------------------------------------------------------------------------------------------------

    def test_chunks_are_objects_that_readers_copy_from(self, store: _core.ObjectStore, prefix: str) -> None:
        chunks = Chunks(store, prefix, [5000, 7, 300_000])
        assert chunks.load() == []
        assert chunks.arrived()
        keys = _core.chunk_keys(prefix, chunks.plan.chunks)
        assert store.exist(keys, deadline_s=S) == [True] * len(keys)
        assert len(store.get(keys[0], deadline_s=S) or b"") == chunks.plan.chunk_bytes[0]

    def test_a_chunk_that_is_gone_or_damaged_is_told(self, store: _core.ObjectStore, prefix: str) -> None:
        chunks = Chunks(store, prefix, [4096] * 4)
        keys = _core.chunk_keys(prefix, 4)
        store.erase([keys[1]], deadline_s=S)
        store.set(keys[2], bytes(4096), ttl_s=60, deadline_s=S)
        assert sorted(chunk for chunk, _, _ in chunks.load()) == [1, 2]

    def test_what_was_begun_and_not_finished_is_seen_by_nobody(self, store: _core.ObjectStore, prefix: str) -> None:
        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Chunks(store, prefix, [1 << 20] * 8, progress=stop)
        keys = _core.chunk_keys(prefix, 8)
        store.erase(keys, deadline_s=S)  # what was finished
        assert store.exist(keys, deadline_s=S) == [False] * 8

    def test_an_object_can_be_mapped_once_more(self, store: _core.ObjectStore, prefix: str) -> None:
        """Privately, and as long as somebody has it."""
        chunks = Chunks(store, prefix, [1 << 20])
        (key,) = _core.chunk_keys(prefix, 1)
        expected = chunks.source.tobytes()
        mine, missing = map_chunks(store, prefix, [0, 1])
        assert missing is None
        assert mine is not None
        assert bytes(mine) == expected
        np.asarray(mine)[:10] = 7
        assert bytes(mine)[:10] == b"\7" * 10
        assert store.get(key, deadline_s=S) == expected
        store.erase([key], deadline_s=S)
        assert bytes(mine)[10:] == expected[10:]
        mine.detach()
        assert bytes(mine)[10:] == expected[10:]

    # -- other processes ------------------------------------------------------------------------------------------

    def test_a_fork_is_told(self, store: _core.ObjectStore, prefix: str) -> None:
        store.set(prefix, b"parent's", ttl_s=60, deadline_s=S)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                store.erase([prefix], deadline_s=S)
                text = "erased"
            except fl.FastLoadError as error:
                text = error.code
            finally:
                os.write(writing, text.encode())
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            assert pipe.read() == "INVALID_ARGUMENT"
        os.waitpid(child, 0)
        assert store.get(prefix, deadline_s=S) == b"parent's"


class Chunks:
    """Tensors of these sizes, published in chunks of one each and loaded again."""

    def __init__(
        self,
        store: _core.ObjectStore,
        prefix: str,
        sizes: list[int],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._store = store
        self._prefix = prefix
        largest = -(-max(sizes) // _core.BLOB_ALIGNMENT) * _core.BLOB_ALIGNMENT
        self.plan = _core.make_plan(array("Q", sizes), chunk_bytes=largest, max_blobs=1)
        self.source = np.random.default_rng(1).integers(1, 256, sum(sizes), np.uint8)
        self._target = np.zeros_like(self.source)
        self._offsets = np.cumsum([0, *sizes[:-1]])
        self._digests, _ = _core.publish_chunks(
            store,
            self.plan,
            self._addresses(self.source),
            key_prefix=prefix,
            ttl_s=60,
            copy_threads=1,
            chunks_in_flight=2,
            verify=True,
            deadline_s=S,
            progress=progress,
        )

    def _addresses(self, block: np.ndarray) -> array[int]:
        return array("Q", [block.ctypes.data + int(offset) for offset in self._offsets])

    def load(self) -> list[tuple[int, str, str]]:
        """Returns what failed: chunk, code and detail."""
        device = _core.cpu_device()
        _, _, _, failures = _core.load_chunks(
            _core.StoreReader(self._store, self._prefix, first_batch=1, batch=2),
            device,
            _core.PinnedPool(device, 1 << 20),
            self.plan,
            self._addresses(self._target),
            array("Q", range(self.plan.chunks)),
            digests=self._digests,
            copy_threads=1,
            chunks_in_flight=2,
            verify=True,
            stage=False,
            deadline_s=S,
        )
        return failures

    def arrived(self) -> bool:
        return np.array_equal(self._target, self.source)
