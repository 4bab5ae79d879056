"""What a framework has asked of a device is done before its bytes are read, or others are written over them."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.worker

LAG_S = 2
LAGS = {"YR_FASTLOAD_SIM_STREAM_LAG_MS": str(LAG_S * 1000)}
PATTERN = 0x77


@pytest.mark.parametrize(
    ("transport", "verify"),
    [
        ("d2d", "digest"),
        ("host", "layout"),
        pytest.param("d2d", "layout", marks=pytest.mark.long),
        pytest.param("staged", "digest", marks=pytest.mark.long),
    ],
)
def test_unfinished_writes_are_waited_for(node, model, transport, verify):
    """A source would hand out what was there before; into a target late writes would come over what was loaded."""
    source, reader = node("source", **LAGS), node("reader", **LAGS)
    settings = {"publish_as": transport, "verify": verify}
    assert source.call("publish_unfinished", model=model, pattern=PATTERN, settings=settings) == {"state": "live"}
    loaded = reader.call(
        "load_over_unfinished", model=model, pattern=PATTERN, settings={"verify": verify}, lag_s=LAG_S + 0.5
    )
    assert loaded == {"equal": [True] * 3, "by": transport}
