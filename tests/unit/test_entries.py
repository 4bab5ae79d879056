"""A manifest's entries, which are written without an object for each tensor."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.catalogue.manifest import Entries, TensorEntry, entries_of
from yr_fastload_native.weights.tensor_table import TensorTable

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.float64, torch.complex64])


def table_of(source: Any) -> TensorTable:
    return TensorTable(source, op="publish", writable=False, max_tensors=1000)


def plan_of(table: TensorTable) -> _core.Plan:
    return _core.make_plan(table.moving, chunk_bytes=256, max_blobs=3)


def one_by_one(table: TensorTable, plan: _core.Plan) -> list[TensorEntry]:
    """What is to be written of each tensor."""
    chunks, offsets = plan.places()
    return [
        TensorEntry(t.name, t.dtype, t.shape, t.strides, t.bytes, chunks[i], offsets[i], table.alias(i))
        for i, t in enumerate(table.tensors)
    ]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Tensors of torch and numpy: of all ranks, empty ones, turned ones, tied ones and views."""
    made: dict[str, Any] = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=12)):
        earlier = [value for value in made.values() if isinstance(value, torch.Tensor)]
        kind = draw(st.sampled_from(["new", "turned", "numpy", "tied", "view"]))
        value: Any = torch.zeros(draw(SHAPES), dtype=draw(DTYPES))
        if kind == "turned":
            value = value.permute(draw(st.permutations(range(value.dim()))))
        elif kind == "numpy":
            value = np.zeros(draw(SHAPES), draw(st.sampled_from(["f4", "i8", "u1"])))
        elif kind == "tied" and earlier:
            value = draw(st.sampled_from(earlier))
        elif kind == "view" and earlier:
            whole = draw(st.sampled_from(earlier))
            value = whole[1:] if whole.dim() and whole.is_contiguous() else whole
        made[name] = value
    return made


@settings(deadline=None, max_examples=200)
@given(models())
def test_entries_are_written_as_they_are_parsed(model: dict[str, Any]) -> None:
    table = table_of(model)
    plan = plan_of(table)
    expected = one_by_one(table, plan)
    entries = entries_of(table, plan)
    assert entries.encoded == msgspec.json.encode(expected)
    assert entries == expected
    assert expected == entries
    assert list(entries) == expected
    assert len(entries) == len(model)


@given(NAMES)
def test_any_name(name: str) -> None:
    table = table_of({name: np.zeros(3, np.uint8)})
    assert entries_of(table, plan_of(table)).encoded == msgspec.json.encode(one_by_one(table, plan_of(table)))


@pytest.mark.parametrize("name", ['"', "\\", "\n", "\x00", "\x1f", "\x7f", "/", "é", "模型", "\U0001f600", "a" * 4096])
def test_names_that_json_writes_otherwise(name: str) -> None:
    table = table_of({name: np.zeros(3, np.uint8), "view": np.zeros(0, np.uint8)})
    (entry, _) = entries_of(table, plan_of(table))
    assert entry.name == name
    assert entries_of(table, plan_of(table)).encoded == msgspec.json.encode(one_by_one(table, plan_of(table)))


def test_entries_are_a_sequence() -> None:
    table = table_of({f"t{i}": np.zeros(3, np.uint8) for i in range(5)})
    entries = entries_of(table, plan_of(table))
    assert [entry.name for entry in entries[1:3]] == ["t1", "t2"]
    assert entries[-1].name == "t4"
    assert entries[0] in entries
    assert entries != list(entries)[:-1]
    assert entries != "t"
    assert entries != 5
    assert list(Entries(b"[]", 0)) == []


def test_columns_of_different_lengths_are_refused() -> None:
    table = table_of({"a": np.zeros(3, np.uint8), "b": np.zeros(3, np.uint8)})
    layouts, plan, one = [b"1"], plan_of(table), array("Q", [0])
    two = array("Q", [0, 0])
    for columns in (
        (["a"], layouts, two, plan, two, two),
        (table.names, layouts, one, plan, two, two),
        (table.names, layouts, two, plan, one, two),
        (table.names, layouts, two, plan, two, one),
        (table.names, layouts, two, plan_of(table_of({})), two, two),
    ):
        with pytest.raises(ValueError, match="differ in length"):
            _core.encode_entries(*columns, quote=msgspec.json.encode)
    beyond = array("Q", [0, 7])
    with pytest.raises(ValueError, match="no tensor"):
        _core.encode_entries(table.names, layouts, two, plan, beyond, two, quote=msgspec.json.encode)
    with pytest.raises(IndexError):
        _core.encode_entries(table.names, layouts, beyond, plan, two, two, quote=msgspec.json.encode)
    with pytest.raises(TypeError, match="no str"):
        _core.encode_entries([1, 2], layouts, two, plan, two, two, quote=msgspec.json.encode)
    with pytest.raises(TypeError):
        _core.encode_entries(table.names, ["text"], two, plan, two, two, quote=msgspec.json.encode)
