"""What the calls of transfers accept."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.errors import (
    InvalidArgumentError,
)

from .transfers import (
    UNTOUCHED,
    Setup,
    published,
)

NOT_FLAT_U64 = [
    np.zeros(4, np.int64),
    np.zeros(4, np.float64),
    np.zeros(4, np.uint32),
    np.zeros(4, np.bool_),
    np.zeros(4, ">u8"),
    np.zeros((2, 2), np.uint64),
    np.zeros((), np.uint64),
    np.zeros(8, np.uint64)[::2],
    np.zeros(4, np.uint64)[::-1],
    array("q", [0] * 4),
    bytes(32),
]


@pytest.mark.parametrize(
    "wrong", NOT_FLAT_U64, ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}"
)
def test_arrays_of_another_kind_are_refused(wrong: Any) -> None:
    setup, into = published([256] * 4)
    flat = "is not a flat array of uint64"
    for call, name in (
        (lambda: setup.load(into, addresses=wrong), "addresses"),
        (lambda: setup.load(into, wrong), "chunks"),
        (lambda: setup.load(into, digests=wrong), "digests"),
        (lambda: setup.publish(addresses=wrong), "addresses"),
        (lambda: _core.digest_chunks(setup.plan, wrong, copy_threads=1, deadline_s=1), "addresses"),
        (lambda: _core.fold_digests(wrong), "digests"),
    ):
        with pytest.raises(InvalidArgumentError, match=f"{name} {flat}"):
            call()
    assert (into.block == UNTOUCHED).all()


dtypes = st.sampled_from([*"?bBhHiIlLqQefdgFD", "u8", ">u8", "<u8", "M8[s]", "S8", "V8"])


@settings(deadline=None)
@given(dtypes.map(np.dtype), st.lists(st.integers(0, 3), max_size=3), st.integers(1, 3))
def test_only_flat_uint64_of_the_right_length_is_taken(dtype: np.dtype[Any], shape: list[int], step: int) -> None:
    setup = Setup([0, 0])  # nothing moves, so that any address will do
    wrong = np.zeros(shape, dtype)[..., ::step] if shape else np.zeros(shape, dtype)
    flat = wrong.ndim == 1 and (wrong.size <= 1 or wrong.strides == (8,))
    good = dtype == np.uint64 and flat and wrong.size == 2
    try:
        setup.publish(addresses=wrong)
    except (InvalidArgumentError, ValueError, BufferError):
        assert not good
    else:
        assert good


@pytest.mark.parametrize("wrong", [None, 3, [1, 2, 3, 4], "text"])
def test_things_that_are_no_arrays_are_refused(wrong: Any) -> None:
    setup, into = published([256] * 4)
    if wrong is not None:
        for changed in ({"addresses": wrong}, {"digests": wrong}):
            with pytest.raises(TypeError):
                setup.load(into, **changed)
    with pytest.raises(TypeError):
        setup.publish(addresses=wrong)
    assert (into.block == UNTOUCHED).all()


def test_lengths_and_indices_must_fit_the_plan() -> None:
    setup, into = published([256, 0, 256])
    for addresses in (into.addresses[:2], into.addresses + array("Q", [1]), array("Q")):
        with pytest.raises(InvalidArgumentError, match=f"{len(addresses)} addresses for a plan of 3 tensors"):
            setup.load(into, addresses=addresses)
        with pytest.raises(InvalidArgumentError, match="addresses for a plan of 3 tensors"):
            setup.publish(addresses=addresses)
        with pytest.raises(InvalidArgumentError, match="addresses for a plan of 3 tensors"):
            _core.digest_chunks(setup.plan, addresses, copy_threads=1, deadline_s=1)
    for chunks in ([2], [0, 2**64 - 1]):
        with pytest.raises(InvalidArgumentError, match=f"chunk {chunks[-1]} is not in the plan"):
            setup.load(into, array("Q", chunks))
    for digests in (array("Q", [1]), array("Q", [1, 2, 3]), array("Q")):
        with pytest.raises(InvalidArgumentError, match="digests differ in number"):
            setup.load(into, digests=digests)
    assert (into.block == UNTOUCHED).all()


def test_a_tensor_that_moves_has_an_address() -> None:
    setup, into = published([256, 0, 256])
    addresses = array("Q", [*into.addresses[:2], 0])
    for call in (
        lambda: setup.load(into, addresses=addresses),
        lambda: setup.publish(addresses=addresses),
        lambda: _core.digest_chunks(setup.plan, addresses, copy_threads=1, deadline_s=1),
    ):
        with pytest.raises(InvalidArgumentError, match="tensor 2 has no address"):
            call()
    assert (into.block == UNTOUCHED).all()


def test_an_empty_plan() -> None:
    setup, into = published([0, 0])
    assert setup.store.keys() == []
    assert list(setup.digests) == []
    assert setup.load(into, stage=True)[0::2] == (0, [])
