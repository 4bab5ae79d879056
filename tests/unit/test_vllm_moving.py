"""Weights that do not stay where they are: what they are depends on more, and nobody is referred to them."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.toy_engine import Fast, Publication, Store

from yr_fastload_native.vllm import publishing
from yr_fastload_native.vllm.model_contents import Live
from yr_fastload_native.vllm.moving import additional_settings, why_they_move
from yr_fastload_native.vllm.publishing import RawWeights, Source, guard, publish_final
from yr_fastload_native.vllm.settings import Settings

ASLEEP = "sleep mode takes their memory away"


def config(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(additional_config=settings)


def test_settings_of_plugins_are_part_of_what_weights_are(tmp_path: Path) -> None:
    assert additional_settings(SimpleNamespace()) is None
    assert additional_settings(config()) is None
    assert additional_settings(config(a=1, b={"c": 2})) == additional_settings(config(b={"c": 2}, a=1))
    assert additional_settings(config(a=1)) != additional_settings(config(a=2))
    first, same, other = (SimpleNamespace(compute_hash=lambda text=text: text) for text in ("a", "a", "b"))
    digests = [additional_settings(SimpleNamespace(additional_config=each)) for each in (first, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("nested", [False, True])
def test_what_a_map_of_experts_says_counts_and_a_missing_one_is_not_ours_to_refuse(
    tmp_path: Path, nested: bool
) -> None:
    path = tmp_path / "map.json"
    named: dict[str, Any] = {"expert_map_path": str(path)}
    given = config(eplb_config=named) if nested else config(**named)
    missing = additional_settings(given)
    path.write_text(json.dumps([0, 1]))
    first = additional_settings(given)
    path.write_text(json.dumps([1, 0]))
    assert len({missing, first, additional_settings(given)}) == 3


@pytest.mark.parametrize(
    ("settings", "model", "why"),
    [
        (config(), SimpleNamespace(), None),
        (config(), SimpleNamespace(enable_sleep_mode=True), ASLEEP),
        (config(dynamic_eplb=True), SimpleNamespace(), "rebalanced"),
        (config(eplb_config={"dynamic_eplb": True}), SimpleNamespace(), "rebalanced"),
        (config(eplb_config={"dynamic_eplb": False}), SimpleNamespace(), None),
        (SimpleNamespace(parallel_config=SimpleNamespace(enable_eplb=True)), SimpleNamespace(), "rebalanced"),
    ],
)
def test_why_weights_move(settings: Any, model: Any, why: str | None) -> None:
    found = why_they_move(settings, model)
    assert found is None if why is None else why in (found or "")


@dataclasses.dataclass
class Allocation:
    """As `AllocationData` of vLLM and vllm-ascend."""

    handle: tuple[int, int, int, int]  # device, bytes, address, physical memory
    tag: str = "weights"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("vllm.device_allocator.cumem", "CuMemAllocator"),
        ("vllm_ascend.device_allocator.camem", "CaMemAllocator"),
    ],
)
def test_memory_of_an_allocator_that_can_sleep_is_not_referred_to(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    """Whatever is configured: whoever has the allocator can tell it to unmap what is there."""
    weights = torch.zeros(3, 100)
    first, size = weights.data_ptr(), weights.nbytes
    pools = {first - 4096: Allocation((0, 64, first - 4096, 1)), first: Allocation((0, size, first, 2))}
    loaded = SimpleNamespace(**{name: SimpleNamespace(instance=SimpleNamespace(pointer_to_data=pools))})

    def why(*addresses: int) -> str | None:
        return why_they_move(config(), SimpleNamespace(), addresses)

    assert why(first) is None  # nobody has imported it
    monkeypatch.setitem(sys.modules, module, loaded)
    assert why(first) == why(first + size - 1) == why(0, weights[2].data_ptr()) == ASLEEP
    assert why() is why(first - 1) is why(first + size) is why(first - 4096 + 64) is None
    setattr(loaded, name, SimpleNamespace(instance=None))  # nobody uses it
    assert why(first) is None


class Remembers(Fast):
    """And says by what was published."""

    def __init__(self) -> None:
        super().__init__(Store())
        self.named: list[str | None] = []

    def publish(self, *args: Any, publish_as: str | None = None, **settings: Any) -> Publication:
        self.named.append(publish_as)
        return super().publish(*args, **settings)


def published(how: str, moves: str | None, **extra: Any) -> list[str | None]:
    fast = Remembers()
    source = Source(fast, {"model": "m"}, Settings.of({"publish": how, **extra}), moves=moves)
    model = torch.nn.Linear(4, 4)
    if extra.get("stage") == "final":
        publish_final(source, Live.of(model), {})
    else:
        raw = RawWeights(source, dict(model.named_parameters()))
        raw.before_processing(model)
        raw.after_processing(model, {})
    assert publishing.wait(10)
    return fast.named


@pytest.mark.parametrize("how", ["inline", "background"])
@pytest.mark.parametrize("extra", [{}, {"stage": "final"}, {"publish_as": "d2d"}])
def test_what_moves_is_published_as_a_copy(monkeypatch: pytest.MonkeyPatch, how: str, extra: dict[str, str]) -> None:
    monkeypatch.setattr(publishing, "_can_refer", lambda: True)
    monkeypatch.setattr(Settings, "_check_device", lambda settings: None)
    assert published(how, ASLEEP, **extra) == ["staged"]
    assert published(how, None, **extra) == [None]


def test_on_a_cpu_it_is_a_copy_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_can_refer", lambda: False)
    assert published("inline", ASLEEP) == [None]


@pytest.mark.parametrize("moves", [ASLEEP, None])
def test_who_pulled_what_moves_is_no_source_of_it(moves: str | None) -> None:
    fast = Remembers()
    publication = fast.publish({"w": torch.zeros(3)}, {"model": "m"})
    publication.by_reference = True
    publication.kept_beside = lambda used: 0  # type: ignore[attr-defined]
    fast.check = lambda publication: []  # type: ignore[attr-defined]
    guard(Source(fast, {"model": "m"}, Settings.of({}), moves=moves), set())  # type: ignore[arg-type]
    assert publishing.wait(10)
    assert publication.closed.is_set() == (moves is not None)
