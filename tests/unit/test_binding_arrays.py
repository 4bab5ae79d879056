"""Arrays that come through the binding: taken as they are, or refused by what is wrong with them; never misread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yr_fastload_native import _core
from yr_fastload_native.errors import FastLoadError

_DTYPES = st.sampled_from(["u8", "i8", "u4", "u1", "f8", "c16", "?", ">u8", "S8", "M8[s]"])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Of any type, shape and strides, some of them read-only."""
    made = draw(
        hnp.arrays(draw(_DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5), fill=st.nothing())
    )
    if made.ndim and draw(st.booleans()):
        made = made[:: draw(st.sampled_from([-1, 2]))]
    if draw(st.booleans()):
        made = made.T
    made.flags.writeable = draw(st.booleans()) and made.flags.writeable
    return made


def is_right(array: np.ndarray) -> bool:
    return array.dtype == np.dtype("u8") and array.ndim == 1 and (array.flags.c_contiguous or array.size < 2)


@given(arrays())
def test_sizes_of_a_plan(sizes: np.ndarray) -> None:
    try:
        plan = _core.make_plan(sizes, chunk_bytes=1 << 30, max_blobs=100)
    except (FastLoadError, ValueError, TypeError, BufferError):
        if is_right(sizes):
            assert int(sizes.sum(dtype=object)) > 1 << 40  # too many chunks, or more than there can be
        return
    assert is_right(sizes)
    assert plan.tensors == len(sizes)
    assert plan.total_bytes == sum(sizes.tolist())


@given(arrays(), arrays())
def test_addresses_and_sizes(addresses: np.ndarray, sizes: np.ndarray) -> None:
    try:
        owner, offset, moving = _core.find_sharing(addresses, sizes)
    except (FastLoadError, ValueError, TypeError, BufferError):
        return
    assert is_right(addresses)
    assert is_right(sizes)
    assert len(owner) == len(offset) == len(moving) == len(sizes)
    assert all(0 <= each < max(1, len(sizes)) for each in owner)


@pytest.mark.parametrize("wrong", [None, 1, "text", b"bytes", [1, 2], object()], ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_array(wrong: object) -> None:
    with pytest.raises((FastLoadError, ValueError, TypeError, BufferError)):
        _core.make_plan(wrong, chunk_bytes=64, max_blobs=1)  # type: ignore[arg-type]
