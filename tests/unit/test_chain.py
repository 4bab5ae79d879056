"""Which transports a publication offers, and which ones a load tries: every combination that matters."""

from __future__ import annotations

import pytest

from yr_fastload_native import Config, DeviceError
from yr_fastload_native.chain import chunk_bytes, to_offer, to_try

MIB = 1 << 20


@pytest.mark.parametrize(
    ("transport", "publish_as", "is_npu", "offers"),
    [
        ("auto", "auto", True, ["d2d"]),
        ("auto", "auto", False, ["host"]),
        ("d2d", "auto", True, ["d2d"]),
        ("staged", "auto", True, ["staged"]),
        ("host", "auto", True, ["host"]),
        ("auto", "staged+d2d", True, ["d2d", "staged"]),
        ("host", "host+d2d", True, ["d2d", "host"]),
        ("auto", "host", True, ["host"]),
    ],
)
def test_what_is_offered(transport: str, publish_as: str, is_npu: bool, offers: list[str]) -> None:
    assert to_offer(Config(transport=transport, publish_as=publish_as), is_npu=is_npu) == offers


@pytest.mark.parametrize(("transport", "publish_as"), [("d2d", "auto"), ("auto", "staged"), ("host", "d2d+host")])
def test_ordinary_memory_is_on_no_device(transport: str, publish_as: str) -> None:
    with pytest.raises(DeviceError, match="use 'auto' or 'host'"):
        to_offer(Config(transport=transport, publish_as=publish_as), is_npu=False)


def test_what_is_tried_and_why_not() -> None:
    def tried(transport: str, offered: list[str], is_npu: bool) -> dict[str, str | None]:
        candidates = to_try(Config(transport=transport), offered, is_npu=is_npu)
        assert [each.transport for each in candidates] == ["d2d", "staged", "host"]
        return {each.transport: each.why_not for each in candidates}

    assert tried("auto", ["d2d", "staged", "host"], True) == {"d2d": None, "staged": None, "host": None}
    not_offered, not_npu = "the publication does not offer it", "the tensors are not on an NPU"
    assert tried("auto", ["host"], True) == {"d2d": not_offered, "staged": not_offered, "host": None}
    assert tried("auto", ["d2d", "host"], False) == {"d2d": not_npu, "staged": not_offered, "host": None}
    only = "transport='staged' is set"
    assert tried("staged", ["d2d", "staged"], True) == {"d2d": only, "staged": None, "host": only}


@pytest.mark.parametrize(
    ("setting", "offered", "expected"),
    [
        (0, ["d2d"], 128 * MIB),
        (0, ["host"], 32 * MIB),
        (0, ["d2d", "host"], 32 * MIB),
        (0, ["d2d", "staged"], 8 * MIB),
        (4096, ["d2d"], 4096),
        (256 * MIB, ["host"], 256 * MIB),
        (256 * MIB, ["staged"], 8 * MIB),
        (4096, ["staged"], 4096),
    ],
)
def test_how_large_chunks_are(setting: int, offered: list[str], expected: int) -> None:
    assert chunk_bytes(Config(chunk_bytes=setting), offered, 500 * MIB) == expected


@pytest.mark.parametrize(
    ("setting", "offered", "largest", "expected"),
    [
        (0, ["host"], 1000, 32 * MIB),
        (0, ["host"], 500 * MIB + 1, 500 * MIB + 64),
        (0, ["host"], 9000 * MIB, 4096 * MIB),
        (0, ["d2d", "host"], 500 * MIB, 32 * MIB),
        (4096, ["host"], 500 * MIB, 4096),
    ],
)
def test_tensors_are_not_cut_for_those_who_alias_them(
    setting: int, offered: list[str], largest: int, expected: int
) -> None:
    assert chunk_bytes(Config(chunk_bytes=setting, zero_copy=True), offered, largest) == expected
