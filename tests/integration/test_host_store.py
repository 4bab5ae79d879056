"""The store of a real worker."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ..store_conformance import StoreConformance

pytestmark = pytest.mark.worker


class TestHostStore(StoreConformance):
    @pytest.fixture
    def pass_time(self) -> Callable[[float], None]:
        return time.sleep
