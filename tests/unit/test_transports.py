"""What transports have in common, and what becomes of a load when some of them fail."""

from __future__ import annotations

from array import array
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from yr_fastload_native import DeviceError, IntegrityError, PartialTransferError, TransferTimeoutError
from yr_fastload_native.catalogue.catalogue import SupersededError
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.devices.cpu import ORDINARY_MEMORY
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.loading.transfer import Transfer
from yr_fastload_native.reporting.load_report import AskedSource
from yr_fastload_native.settings import TRANSPORTS
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.d2d.tree import TreeSlot, near_first
from yr_fastload_native.transports.host import share_of
from yr_fastload_native.transports.selection import Candidate
from yr_fastload_native.transports.wanted import Failure, WantedChunks

WHO = Identity.of({"model": "m"}, op="test")


def test_every_transport_of_the_settings_is_registered() -> None:
    assert [transport.name for transport in registry.ALL] == list(TRANSPORTS)
    assert [each.name for each in registry.named(["host", "d2d", "carrier pigeon"])] == ["d2d", "host"]


def test_what_reaches_what() -> None:
    assert [each.name for each in registry.ALL if each.reaches(ORDINARY_MEMORY)] == ["host"]
    assert [each.name for each in registry.ALL if each.reaches(NPU)] == list(TRANSPORTS)
    assert [each.name for each in registry.ALL if each.reaches(CUDA)] == ["d2d", "host"]


def test_what_is_kept_in_the_store() -> None:
    keys = {name: registry.data_keys(WHO, "g1", 3, [name]) for name in TRANSPORTS}
    assert keys["d2d"] == []
    assert len({*keys["host"], *keys["staged"]}) == 6
    assert registry.data_keys(WHO, "g1", 3, ["host", "staged", "of the future"]) == keys["staged"] + keys["host"]


def test_a_slot_of_the_tree() -> None:
    slot = TreeSlot(4, "0" * 32, "machine:7")
    assert TreeSlot.parse(4, slot.value) == slot
    assert (slot.above, slot.below) == (1, (9, 10))
    telling = TreeSlot(4, "0" * 32, "machine:7", b"what \n follows\xff")
    assert TreeSlot.parse(4, telling.value) == telling
    for value in (None, b"", b"pending", b"0" * 32 + b" ", b"\xff" * 40, b"G" * 32 + b" machine:7"):
        assert TreeSlot.parse(4, value) is None


class Wanted:
    """Chunks that stand-ins for transports take away from."""

    def __init__(self, chunks: int) -> None:
        self.numbers = array("Q", range(chunks))
        self.retried = 0
        self.aliased_bytes = 0
        self.served = False
        plan = SimpleNamespace(chunks=chunks)
        entries = [SimpleNamespace(key=f"chunk-{chunk}") for chunk in range(chunks)]
        manifest = SimpleNamespace(chunks=entries, publisher="p", chunk_tensors=lambda plan, chunk: [f"t{chunk}"])
        deadline = SimpleNamespace(left=lambda why="": 1.0)
        self.job = SimpleNamespace(plan=plan, deadline=deadline, generation=SimpleNamespace(manifest=manifest))

    def __len__(self) -> int:
        return len(self.numbers)

    def serve_all(self) -> None:
        self.served = True


class Brings:
    """A transport that brings some chunks, and then fails in its way."""

    by_reference = False

    def __init__(self, name: str, chunks: set[int], error: Exception | None = None, code: str = "INTEGRITY") -> None:
        self.name = name
        self._chunks = chunks
        self._error = error
        self._code = code

    def load(self, wanted: Any, attempt: Any) -> list[Failure]:
        left = [chunk for chunk in wanted.numbers if chunk not in self._chunks]
        attempt.bytes += 10 * (len(wanted) - len(left))
        attempt.sources.append(AskedSource(f"of {self.name}", len(wanted) - len(left), ""))
        wanted.numbers = array("Q", left)
        if self._error is not None:
            raise self._error
        return [Failure(chunk, self._code, "was not there") for chunk in left]


def transfer(chunks: int, *transports: Any) -> tuple[Wanted, Transfer, list[Candidate]]:
    wanted = Wanted(chunks)
    candidates = [Candidate(each, None) if isinstance(each, Brings) else Candidate(*each) for each in transports]
    return wanted, Transfer(wanted), candidates  # type: ignore[arg-type]


def test_each_transport_brings_what_those_before_it_did_not() -> None:
    skipped = (Brings("unused", set()), "transport='fast' is set")
    wanted, made, candidates = transfer(
        4, skipped, Brings("fast", {0}, DeviceError("gone", op="load")), Brings("mid", {1}), Brings("slow", {2, 3})
    )
    outcome = made.run(candidates)
    steps = [(each.transport, each.outcome, each.why, each.bytes) for each in outcome.steps]
    assert steps == [
        ("unused", "skipped", "transport='fast' is set", 0),
        ("fast", "failed", "load: gone", 10),
        ("mid", "partial", "was not there", 10),
        ("slow", "loaded", None, 20),
    ]
    assert (outcome.transport, outcome.chunks_retried, wanted.served) == ("slow", 3 + 2, True)
    asked = {"source": "of slow", "chunks": 2, "left_because": ""}
    assert outcome.steps[3].to_dict() == {
        "transport": "slow",
        "outcome": "loaded",
        "why": None,
        "bytes": 20,
        "seconds": outcome.steps[3].seconds,
        "sources": [asked],
    }


def test_what_comes_after_the_last_chunk_is_not_tried() -> None:
    _, made, candidates = transfer(2, Brings("fast", {0, 1}), Brings("slow", set()))
    outcome = made.run(candidates)
    assert [(each.outcome, each.why) for each in outcome.steps] == [
        ("loaded", None),
        ("skipped", "nothing was left to load"),
    ]


def test_a_model_without_bytes_is_loaded_by_the_first_that_is_tried() -> None:
    _, made, candidates = transfer(0, (Brings("unused", set()), "no"), Brings("fast", set()), Brings("slow", set()))
    outcome = made.run(candidates)
    assert (outcome.transport, [each.outcome for each in outcome.steps]) == ("fast", ["skipped", "loaded", "skipped"])


@pytest.mark.parametrize(("code", "error"), [("INTEGRITY", IntegrityError), ("PARTIAL_TRANSFER", PartialTransferError)])
def test_chunks_that_nobody_brings_are_named(code: str, error: type[Exception]) -> None:
    wanted, made, candidates = transfer(3, Brings("only", {1}, code=code))
    with pytest.raises(error, match=r"2/3 chunks failed.*chunk 0 of p was not there \[t0\]") as caught:
        made.run(candidates)
    assert caught.value.failed_keys == ("chunk-0", "chunk-2")
    assert not wanted.served


def test_the_last_error_counts() -> None:
    _, made, candidates = transfer(
        2, Brings("fast", {0}), Brings("slow", set(), TransferTimeoutError("late", op="load"))
    )
    with pytest.raises(TransferTimeoutError, match="late"):
        made.run(candidates)
    assert [each.outcome for each in made.steps] == ["partial", "failed"]


def test_a_generation_that_was_replaced_ends_the_transfer() -> None:
    _, made, candidates = transfer(2, Brings("fast", {0}, SupersededError()), Brings("slow", {1}))
    with pytest.raises(SupersededError):
        made.run(candidates)
    assert made.steps == []


@pytest.mark.parametrize(
    ("holders", "free", "first"),
    [
        (["a", "b"], [2, 3, 4, 5], 3),  # slot 2 is below a, 3 below b
        (["a", "b", "b"], [3, 4, 5], 3),
        (["b", "a"], [2, 3, 4], 2),
        (["a", "a"], [2, 3, 4], 2),  # nobody is near
        ([None, "b"], [0, 2, 3], 0),  # above it is nobody
    ],
)
def test_a_reader_is_below_its_own_host(holders: list[str | None], free: list[int], first: int) -> None:
    peers = [TreeSlot(number, "0" * 32, f"{host}:1") for number, host in enumerate(holders) if host]
    ordered = near_first(free, "b", peers)
    assert ordered[0] == first
    assert sorted(ordered) == free


def test_hosts_begin_in_different_places() -> None:
    """Those with addresses that follow each other far apart, and all readers of one in one place."""
    shares = sorted(share_of(f"10.0.0.{number}:31501") for number in range(1, 9))
    gaps = [after - before for before, after in pairwise([*shares, shares[0] + 1])]
    assert all(0 <= share < 1 for share in shares)
    assert min(gaps) > 0.05
    assert share_of("10.0.0.3:1") == share_of("10.0.0.3:2")
    assert share_of("127.0.0.1:31501") == share_of("localhost:31501") == share_of("") == 0.0
    assert 0 < share_of("node-3:31501") < 1
    assert 0 < share_of("[fd00::3]:31501") < 1


def test_chunks_are_read_from_any_of_them_on() -> None:
    wanted = WantedChunks.__new__(WantedChunks)
    wanted.numbers = array("Q", [0, 1, 4, 5])
    wanted.begin_with(2)
    assert list(wanted.numbers) == [4, 5, 0, 1]
