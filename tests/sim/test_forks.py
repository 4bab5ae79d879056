"""Forked children, apart from test_lifetime.py: the allocator of AddressSanitizer is not made for them (GCC 12)."""

from __future__ import annotations

import os

import pytest

from .test_lifetime import WAYS, live

pytestmark = [
    pytest.mark.worker,
    pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="children may wait for its allocator"),
]


@pytest.mark.parametrize("way", ["host", "d2d", pytest.param("staged", marks=pytest.mark.long)])
def test_a_child_is_told_and_takes_nothing_from_its_parent(worker, model, way):
    live(worker, model, WAYS[way], "forks")  # a GPU cannot be used in a child at all
