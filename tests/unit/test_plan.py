"""Invariants of the plan and of the search for shared memory, on sizes no machine has."""

from __future__ import annotations

import time
from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import InvalidArgumentError, ResourceExhaustedError

GIB = 1 << 30
SMALL = 1 << 20


def plan_of(sizes: list[int], *, chunk_bytes: int = 1024, max_blobs: int = 8) -> _core.Plan:
    return _core.make_plan(array("Q", sizes), chunk_bytes=chunk_bytes, max_blobs=max_blobs)


def blobs_of(plan: _core.Plan) -> list[list[tuple[int, int, int, int]]]:
    """Of each chunk its blobs: tensor, offset in the tensor, bytes, offset in the chunk."""
    rows, first = list(plan.blobs), list(plan.first_blob)
    assert len(first) == plan.chunks + 1
    assert (first[0], 4 * first[-1]) == (0, len(rows))
    found = [[tuple(rows[4 * b : 4 * b + 4]) for b in range(start, stop)] for start, stop in pairwise(first)]
    chunks = [plan.chunk(index) for index in range(plan.chunks)]
    assert found == [[(b.tensor, b.tensor_offset, b.bytes, b.chunk_offset) for b in blobs] for blobs in chunks]
    return found


def check(sizes: list[int], chunk_bytes: int, max_blobs: int) -> None:
    plan = plan_of(sizes, chunk_bytes=chunk_bytes, max_blobs=max_blobs)
    chunks = blobs_of(plan)
    assert plan.tensors == len(sizes)
    assert plan.total_bytes == sum(sizes)
    assert len(plan.chunk_bytes) == len(chunks) == plan.chunks

    in_order: list[tuple[int, int, int]] = []
    for size, blobs in zip(plan.chunk_bytes, chunks, strict=True):
        assert 1 <= len(blobs) <= max_blobs
        end = 0
        for tensor, tensor_offset, length, chunk_offset in blobs:
            assert length > 0
            assert chunk_offset % 64 == 0
            assert end <= chunk_offset < end + 64
            end = chunk_offset + length
            in_order.append((tensor, tensor_offset, length))
        assert end == size <= chunk_bytes

    first_at = {}
    for number, blobs in enumerate(chunks):
        for tensor, _, _, chunk_offset in blobs:
            first_at.setdefault(tensor, (number, chunk_offset))
    assert list(zip(*plan.places(), strict=True)) == [first_at.get(i, (-1, 0)) for i in range(len(sizes))]

    expected = iter(in_order)
    for tensor, size in sorted(enumerate(sizes), key=lambda pair: pair[1] <= SMALL):  # large ones first
        done, pieces = 0, 0
        while done < size:
            owner, offset, length = next(expected)
            assert (owner, offset) == (tensor, done)
            done += length
            pieces += 1
        assert done == size
        assert pieces == -(-size // chunk_bytes)  # never cut without need
    assert next(expected, None) is None


small_sizes = st.lists(st.one_of(st.just(0), st.integers(0, 200), st.integers(0, 5000)), max_size=60)


@settings(deadline=None)
@given(small_sizes, st.integers(1, 40).map(lambda n: 64 * n), st.integers(1, 9))
def test_every_byte_once_in_order_never_past_a_chunk(sizes: list[int], chunk_bytes: int, max_blobs: int) -> None:
    check(sizes, chunk_bytes, max_blobs)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 90 * GIB), min_size=1, max_size=30),
    st.sampled_from([GIB, 3 * GIB + 64, 1 << 40]),
    st.integers(1, 5),
)
def test_sums_beyond_32_bits(sizes: list[int], chunk_bytes: int, max_blobs: int) -> None:
    check([*sizes, 5 * GIB + 1], chunk_bytes, max_blobs)


def test_what_a_plan_looks_like() -> None:
    plan = plan_of([100, 0, 64, 2100, 10], chunk_bytes=1024, max_blobs=8)
    assert blobs_of(plan) == [
        [(0, 0, 100, 0), (2, 0, 64, 128)],
        [(3, 0, 1024, 0)],
        [(3, 1024, 1024, 0)],
        [(3, 2048, 52, 0), (4, 0, 10, 64)],
    ]
    assert list(plan.chunk_bytes) == [192, 1024, 1024, 74]


def test_small_tensors_share_no_chunk_with_large_ones() -> None:
    plan = plan_of([10, SMALL + 1, SMALL, 2 * SMALL, 20], chunk_bytes=16 * SMALL)
    assert [[blob[0] for blob in chunk] for chunk in blobs_of(plan)] == [[1, 3], [0, 2, 4]]


@pytest.mark.parametrize("sizes", [[], [0], [0, 0, 0]])
def test_nothing_to_move(sizes: list[int]) -> None:
    plan = plan_of(sizes)
    assert (plan.chunks, plan.total_bytes, plan.tensors) == (0, 0, len(sizes))
    assert (list(plan.blobs), list(plan.first_blob), list(plan.chunk_bytes)) == ([], [0], [])


def test_a_chunk_that_is_not_there() -> None:
    plan = plan_of([10, 2000])
    for index in (plan.chunks, 1 << 40):
        with pytest.raises(IndexError, match="no such chunk"):
            plan.chunk(index)
    with pytest.raises(TypeError):
        plan.chunk(-1)


@settings(deadline=None)
@given(small_sizes)
def test_a_plan_is_a_pure_function(sizes: list[int]) -> None:
    one, two = plan_of(sizes), plan_of(sizes)
    for field in ("blobs", "first_blob", "chunk_bytes"):
        assert bytes(getattr(one, field)) == bytes(getattr(two, field))


def test_the_plan_outlives_its_input() -> None:
    sizes = array("Q", [10, 20])
    plan = _core.make_plan(sizes, chunk_bytes=64, max_blobs=1)
    sizes[0] = 999
    assert [blob[2] for chunk in blobs_of(plan) for blob in chunk] == [10, 20]


@pytest.mark.parametrize("sizes", [[1 << 63, 1 << 63], [2**64 - 1, 1], [1] * 5 + [2**64 - 5]])
def test_sums_beyond_64_bits_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ResourceExhaustedError):
        plan_of(sizes, chunk_bytes=1 << 40)


def test_the_sum_itself_is_checked_not_only_the_chunks() -> None:
    below_a_chunk = array("Q", [(1 << 40) - 1]) * ((1 << 24) + 1)  # none fills a chunk, so no count of those stops it
    with pytest.raises(ResourceExhaustedError, match="sum to more than"):
        _core.make_plan(below_a_chunk, chunk_bytes=1 << 40, max_blobs=1)


def test_a_million_chunks_and_not_one_more() -> None:
    assert plan_of([64 * 1_000_000], chunk_bytes=64).chunks == 1_000_000
    for sizes in ([64 * 1_000_000, 1], [64 * 1_000_001], [64 * 1_000_000 + 1], [2**62]):
        with pytest.raises(ResourceExhaustedError, match="1000000 chunks"):
            plan_of(sizes, chunk_bytes=64)


def test_a_million_small_chunks_and_not_one_more() -> None:
    ones = array("Q", [1]) * 1_000_000
    assert _core.make_plan(ones, chunk_bytes=64, max_blobs=1).chunks == 1_000_000
    with pytest.raises(ResourceExhaustedError, match="1000000 chunks"):
        _core.make_plan(ones + array("Q", [1]), chunk_bytes=64, max_blobs=1)


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"chunk_bytes": 0}, "multiple of 64"),
        ({"chunk_bytes": 63}, "multiple of 64"),
        ({"chunk_bytes": 100}, "multiple of 64"),
        ({"chunk_bytes": (1 << 40) + 64}, "1 TiB"),
        ({"chunk_bytes": 2**64 - 64}, "1 TiB"),
        ({"max_blobs": 0}, "max_blobs"),
    ],
)
def test_limits_without_sense_are_refused(limits: dict[str, int], why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why):
        plan_of([1], **limits)


@pytest.mark.parametrize("limits", [{"chunk_bytes": -64}, {"chunk_bytes": 2**64}, {"max_blobs": 1.5}])
def test_limits_of_another_type_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        plan_of([1], **limits)


@pytest.mark.parametrize("sizes", [array("q", [1]), array("d", [1]), array("I", [1]), b"12345678", memoryview(b"12")])
def test_sizes_of_another_type_are_refused(sizes: object) -> None:
    with pytest.raises(InvalidArgumentError, match="tensor_bytes is not a flat array of uint64"):
        _core.make_plan(sizes, chunk_bytes=64, max_blobs=1)
    with pytest.raises(InvalidArgumentError, match="not a flat array of uint64"):
        _core.find_sharing(sizes, sizes)


def best_of(times: int, work: object) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(times))


def test_planning_costs_less_than_looking_at_the_sizes_in_python() -> None:
    sizes = array("Q", [4096 * (i % 977) for i in range(10_000)])

    def look() -> int:
        chunks, end, seen = 0, 0, {}
        for tensor, size in enumerate(sizes):
            end = (end + 63) // 64 * 64 + size
            if end > 32 << 20:
                chunks, end = chunks + 1, size
            seen[tensor] = (chunks, end)
        return chunks

    native = best_of(7, lambda: _core.make_plan(sizes, chunk_bytes=32 << 20, max_blobs=4096))
    assert native < 2 * best_of(7, look)


# -- sharing ----------------------------------------------------------------------------------------------------------


def sharing_of(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    owner, offset, moving = _core.find_sharing(array("Q", [a for a, _ in spans]), array("Q", [n for _, n in spans]))
    assert list(moving) == [size if owner[i] == i else 0 for i, (_, size) in enumerate(spans)]
    return list(zip(owner, offset, strict=True))


def reference(spans: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The same by looking at all pairs; None where owners overlap and neither contains the other."""

    def contains(outer: int, inner: int) -> bool:
        (a, n), (b, m) = spans[outer], spans[inner]
        return a <= b and b + m <= a + n

    def is_owner(i: int) -> bool:
        return not any(
            contains(j, i) and (spans[j] != spans[i] or j < i) for j in range(len(spans)) if j != i and spans[j][1]
        )

    owners = [i for i, (_, size) in enumerate(spans) if size and is_owner(i)]
    for i in owners:
        for j in owners:
            if i < j and spans[i][0] < spans[j][0] + spans[j][1] and spans[j][0] < spans[i][0] + spans[i][1]:
                return None
    result = []
    for i, (address, size) in enumerate(spans):
        mine = i if not size else next(owner for owner in owners if contains(owner, i))
        result.append((mine, address - spans[mine][0]))
    return result


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=12))
def test_sharing_is_what_all_pairs_say(spans: list[tuple[int, int]]) -> None:
    expected = reference(spans)
    if expected is None:
        with pytest.raises(InvalidArgumentError, match="overlap") as caught:
            sharing_of(spans)
        one, two = sorted((spans[int(i)] for i in caught.value.failed_keys), key=lambda span: span[0])
        assert one[0] < two[0] < one[0] + one[1] < two[0] + two[1]
    else:
        assert sharing_of(spans) == expected


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(100, 8), (200, 8)], [(0, 0), (1, 0)]),
        ([(100, 8), (108, 8)], [(0, 0), (1, 0)]),  # neighbours share nothing
        ([(100, 8), (100, 8), (100, 8)], [(0, 0), (0, 0), (0, 0)]),  # tied: the first named owns
        ([(104, 4), (100, 8)], [(1, 4), (1, 0)]),  # a view owns nothing, although it is named first
        ([(100, 4), (100, 8)], [(1, 0), (1, 0)]),
        ([(100, 8), (101, 4), (103, 4)], [(0, 0), (0, 1), (0, 3)]),  # views of one owner may overlap each other
        ([(100, 8), (102, 0), (0, 0), (0, 0)], [(0, 0), (1, 0), (2, 0), (3, 0)]),  # the empty share nothing
        ([(2**64 - 9, 8), (2**64 - 5, 4)], [(0, 0), (0, 4)]),
        ([(5 * GIB, 40 * GIB), (44 * GIB, GIB)], [(0, 0), (0, 39 * GIB)]),
        ([], []),
    ],
)
def test_tied_tensors_and_views(spans: list[tuple[int, int]], expected: list[tuple[int, int]]) -> None:
    assert sharing_of(spans) == expected


@pytest.mark.parametrize("spans", [[(0, 1), (100, 8), (104, 8)], [(0, 1), (104, 8), (100, 8)]])
def test_partial_overlap_names_both(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        sharing_of(spans)
    assert sorted(caught.value.failed_keys) == ["1", "2"]


def test_memory_beyond_the_address_space_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="address space") as caught:
        sharing_of([(1, 1), (2**64 - 4, 8)])
    assert caught.value.failed_keys == ("1",)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        _core.find_sharing(array("Q", [1]), array("Q", [1, 2]))
