"""Which transports a publication offers, and which ones a load tries: every combination that matters."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import pytest

from yr_fastload_native import Config, DeviceError, _core
from yr_fastload_native.devices.cpu import ORDINARY_MEMORY
from yr_fastload_native.devices.cuda import CUDA
from yr_fastload_native.devices.kind import DeviceKind
from yr_fastload_native.devices.npu import NPU
from yr_fastload_native.transports import registry
from yr_fastload_native.transports.selection import chunk_bytes, servable, to_offer, to_try

MIB = 1 << 20


@pytest.mark.parametrize(
    ("transport", "publish_as", "kind", "offers"),
    [
        ("auto", "auto", NPU, ["d2d"]),
        ("auto", "auto", ORDINARY_MEMORY, ["host"]),
        ("d2d", "auto", NPU, ["d2d"]),
        ("staged", "auto", NPU, ["staged"]),
        ("host", "auto", NPU, ["host"]),
        ("auto", "staged+d2d", NPU, ["d2d", "staged"]),
        ("host", "host+d2d", NPU, ["d2d", "host"]),
        ("auto", "host", NPU, ["host"]),
        ("auto", "auto", CUDA, ["host"]),
        ("d2d", "auto", CUDA, ["d2d"]),
        ("auto", "d2d+host", CUDA, ["d2d", "host"]),
    ],
)
def test_what_is_offered(transport: str, publish_as: str, kind: DeviceKind, offers: list[str]) -> None:
    assert [each.name for each in to_offer(Config(transport=transport, publish_as=publish_as), kind)] == offers


@pytest.mark.parametrize(("transport", "publish_as"), [("d2d", "auto"), ("auto", "staged"), ("host", "d2d+host")])
def test_ordinary_memory_is_on_no_device(transport: str, publish_as: str) -> None:
    with pytest.raises(DeviceError, match="use 'auto' or 'host'"):
        to_offer(Config(transport=transport, publish_as=publish_as), ORDINARY_MEMORY)


def test_by_staged_nothing_moves_on_a_gpu() -> None:
    with pytest.raises(DeviceError, match="'staged' moves no tensors on CUDA's GPUs"):
        to_offer(Config(publish_as="staged"), CUDA)


def test_what_cannot_be_served_is_published_as_a_copy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(device: object, addresses: object) -> object:
        raise DeviceError("of a pool", op="device")

    context = SimpleNamespace(kind=CUDA, device=None)
    for offered in (["d2d"], ["d2d", "host"]):
        monkeypatch.setattr(_core, "share_memory", lambda device, addresses: [])
        assert servable(registry.named(offered), context, array("Q")) == registry.named(offered)  # type: ignore[arg-type]
        monkeypatch.setattr(_core, "share_memory", refused)
        kept = servable(registry.named(offered), context, array("Q"))  # type: ignore[arg-type]
        assert [each.name for each in kept] == ["host"]
        assert "published without transport d2d, although that was asked for: device: of a pool" in caplog.text


def test_what_is_tried_and_why_not() -> None:
    def tried(transport: str, offered: list[str], kind: DeviceKind) -> dict[str, str | None]:
        candidates = to_try(Config(transport=transport), offered, kind)
        assert [each.transport.name for each in candidates] == ["d2d", "staged", "host"]
        return {each.transport.name: each.why_not for each in candidates}

    assert tried("auto", ["d2d", "staged", "host"], NPU) == {"d2d": None, "staged": None, "host": None}
    not_offered, not_npu = "the publication does not offer it", "it moves no tensors in CPU memory"
    assert tried("auto", ["host"], NPU) == {"d2d": not_offered, "staged": not_offered, "host": None}
    assert tried("auto", ["d2d", "host"], ORDINARY_MEMORY) == {"d2d": not_npu, "staged": not_offered, "host": None}
    only = "transport='staged' is set"
    assert tried("staged", ["d2d", "staged"], NPU) == {"d2d": only, "staged": None, "host": only}


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
    assert chunk_bytes(Config(chunk_bytes=setting), registry.named(offered), 500 * MIB) == expected


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
    config = Config(chunk_bytes=setting, zero_copy=True)
    assert chunk_bytes(config, registry.named(offered), largest) == expected
