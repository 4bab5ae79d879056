"""Weights in a device's private format: exchanged with all that they are stored as, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import yr_fastload_native as fl
from yr_fastload_native.errors import InvalidArgumentError, LayoutMismatchError
from yr_fastload_native.vllm import stored_form, weights
from yr_fastload_native.vllm.stored_form import in_stored_form
from yr_fastload_native.vllm.weights import Landing

PADDED = 100  # bytes that such a tensor takes


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of float16 are in one, whose name is their number of dimensions."""

    def of(tensor: torch.Tensor) -> str | None:
        return f"NZ{tensor.dim()}" if tensor.dtype is torch.float16 else None

    monkeypatch.setattr(stored_form, "private_format_of", of)
    monkeypatch.setattr(weights, "private_format_of", of)


class Model(torch.nn.Module):
    def __init__(self, fill: int, shape: tuple[int, ...] = (3, 4)) -> None:
        super().__init__()
        storage = torch.full((PADDED,), fill, dtype=torch.uint8).untyped_storage()
        strides = torch.empty(shape).stride()
        blocks = torch.empty(0, dtype=torch.float16).set_(storage, 0, shape, strides)
        self.blocks = torch.nn.Parameter(blocks, requires_grad=False)
        self.plain = torch.nn.Parameter(torch.full((5,), float(fill)), requires_grad=False)

    def stored(self) -> list[int]:
        return list(self.blocks.untyped_storage())

    def tensors(self) -> dict[str, torch.Tensor]:
        return dict(self.named_parameters())


Open = Callable[..., fl.FastLoader]


def test_all_bytes_move(open_loader: Open, identity: dict[str, str]) -> None:
    first, second = Model(1), Model(2)
    open_loader().publish(in_stored_form(first.tensors()), identity)
    landing = Landing(second, second.tensors(), frozenset())
    assert open_loader().load(in_stored_form(landing.tensors), identity).verified
    assert second.stored() == [1] * PADDED
    assert torch.equal(second.plain, first.plain)


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3)], ids=["shape", "format"])
def test_only_the_same_is_the_same(open_loader: Open, identity: dict[str, str], shape: tuple[int, ...]) -> None:
    open_loader().publish(in_stored_form(Model(1).tensors()), identity)
    target = Model(2, shape)
    with pytest.raises(LayoutMismatchError):
        open_loader().load(in_stored_form(target.tensors()), identity)
    assert target.stored() == [2] * PADDED


def test_a_buffer_of_such_a_format_is_not_pulled_beside_the_model() -> None:
    made = Model(1)
    made.register_buffer("table", made.blocks.clone())
    with pytest.raises(InvalidArgumentError, match="'table' is in the private format NZ2"):
        Landing(made, {**made.tensors(), "table": made.table}, frozenset())
