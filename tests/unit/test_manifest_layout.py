"""The manifest against a reader's own tensors: differences have names, and equal ones need not be parsed."""

from __future__ import annotations

import copy
import json
import weakref
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import Manifest
from yr_fastload_native.catalogue.manifest_codec import decode_manifest
from yr_fastload_native.errors import IntegrityError, LayoutMismatchError, ResourceExhaustedError
from yr_fastload_native.weights.tensor_table import TensorTable

from .manifests import DATA, LOTS, MANIFEST, PLAIN, WHO, build, decode, head_for, spans, table_of, tensors, written


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors().items() if key != name}


def untied() -> dict[str, Any]:
    source = tensors()
    return source | {"head": source["head"].clone()}


def moved_view() -> dict[str, Any]:
    source = tensors()
    return source | {"rows": source["embed"][5:7]}


def renamed() -> dict[str, Any]:
    return {"norm2" if key == "norm" else key: value for key, value in tensors().items()}


DIFFERENCES = {
    "more": (lambda: tensors() | {"extra": torch.zeros(1)}, {"extra": "is wanted but not published"}),
    "less": (lambda: without("norm"), {"norm": "is published but not wanted"}),
    "renamed": (renamed, {"norm": "is published but not wanted", "norm2": "is wanted but not published"}),
    "dtype": (
        lambda: tensors() | {"norm": torch.zeros(7, dtype=torch.int32)},
        {"norm": "has dtype float32 published, int32 here"},
    ),
    "shape": (
        lambda: tensors() | {"norm": torch.zeros(7, 1)},
        {"norm": "has shape (7,) published, (7, 1) here, strides (1,) published, (1, 1) here"},
    ),
    "size": (
        lambda: tensors() | {"norm": torch.zeros(8)},
        {"norm": "has shape (7,) published, (8,) here, bytes 28 published, 32 here"},
    ),
    "strides": (
        lambda: tensors() | {"turned": torch.zeros(6, 4)},
        {"turned": "has strides (1, 6) published, (4, 1) here"},
    ),
    "tied no more": (untied, {"head": "has alias ('embed', 0) published, None here"}),
    "tied now": (
        lambda: (lambda source: source | {"scale": source["turned"].view(-1)[:2].view(torch.float64)[0]})(
            tensors() | {"turned": torch.zeros(24)}
        ),
        None,
    ),
    "view elsewhere": (moved_view, {"rows": "has alias ('embed', 240) published, ('embed', 300) here"}),
}


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_each_difference_names_tensor_and_field(kind: str) -> None:
    make, expected = DIFFERENCES[kind]
    source = make()
    with pytest.raises(LayoutMismatchError) as caught:
        MANIFEST.check_layout(table_of(source), op="load")
    message = str(caught.value)
    if expected is None:
        assert "'scale' has alias None published, ('turned', 0) here" in message
        return
    assert message.startswith(f"load: {len(expected)} of {len(source)} tensors differ from the published ones: ")
    assert caught.value.failed_keys == tuple(expected)
    for name, why in expected.items():
        assert f"{name!r} {why}" in message


def test_many_differences_are_counted_and_all_named_in_failed_keys() -> None:
    source = {f"t{i:03}": torch.zeros(1) for i in range(50)}
    with pytest.raises(LayoutMismatchError, match=r"'embed' .*; and 55 more$") as caught:
        MANIFEST.check_layout(table_of(source), op="publish")
    assert len(caught.value.failed_keys) == 58
    assert caught.value.op == "publish"


def test_the_order_of_tensors_does_not_matter() -> None:
    """But that of tied ones does: the first named owns the memory."""
    names = ["last", "turned", "embed", "scale", "rows", "head", "empty", "norm"]
    source = tensors()
    MANIFEST.check_layout(table_of({name: source[name] for name in names}), op="load")


def recognised(data: bytes, mine: TensorTable, **bounds: int) -> Manifest:
    bounds = {"max_bytes": LOTS, "max_tensors": 1000} | bounds
    return decode_manifest(data, head_for(data), WHO, **bounds, op="load", mine=mine)


def test_tensors_that_are_one_s_own_need_not_be_parsed() -> None:
    table = table_of(tensors())
    manifest = recognised(DATA, table)
    assert type(manifest) is not Manifest
    assert written(manifest) == DATA
    manifest.check_layout(table, op="load")
    assert manifest.addresses(table) == decode(DATA).addresses(table) == table.addresses
    assert list(manifest.plan().blobs) == list(decode(DATA).plan().blobs)


def test_what_is_recognised_is_compared_with_any_other_tensors() -> None:
    table = table_of(tensors())
    manifest = recognised(DATA, table)
    backwards = table_of(dict(reversed(tensors().items())))
    with pytest.raises(LayoutMismatchError, match=r"'embed' has alias None published, \('head', 0\) here"):
        manifest.check_layout(backwards, op="load")
    again = table_of(tensors())
    manifest.check_layout(again, op="load")
    assert manifest.addresses(again) == again.addresses


@pytest.mark.parametrize("kind", DIFFERENCES)
def test_other_tensors_are_not_recognised(kind: str) -> None:
    other = table_of(DIFFERENCES[kind][0]())
    manifest = recognised(DATA, other)
    assert manifest == MANIFEST
    with pytest.raises(LayoutMismatchError):
        manifest.check_layout(other, op="load")


def test_a_manifest_that_is_written_differently_means_the_same() -> None:
    table = table_of(tensors())
    manifest = recognised(json.dumps(PLAIN, indent=1).encode(), table)
    assert manifest == MANIFEST
    manifest.check_layout(table, op="load")


def test_what_is_recognised_does_not_keep_the_tensors() -> None:
    table = table_of(tensors())
    manifest = recognised(DATA, table)
    gone = weakref.ref(table)
    del table
    assert gone() is None
    assert len(manifest.tensors) == len(PLAIN["tensors"])


@pytest.mark.parametrize(
    "fields",
    [
        {"tensors": [1]},
        {"a": 1, "tensors": [1]},
        {"a": {"b": 1, "tensors": []}},
        {"a": ',"tensors":[', ',"tensors":': 1},
    ],
)
def test_an_identity_that_looks_like_the_tensors(fields: dict[str, Any]) -> None:
    who = Identity.of(fields, op="publish")
    manifest = build(tensors(), who=who)
    data = written(manifest)
    table = table_of(tensors())
    found = decode_manifest(data, head_for(data), who, max_bytes=LOTS, max_tensors=1000, op="load", mine=table)
    assert written(found) == data
    assert found.identity == who.fields
    found.check_layout(table, op="load")


@settings(deadline=None)
@given(st.lists(spans(), min_size=1, max_size=3))
def test_with_tensors_of_its_own_a_reader_takes_no_other_bytes(mutations: list[tuple[int, int, bytes]]) -> None:
    data = DATA
    for start, length, replacement in mutations:
        data = data[:start] + replacement + data[start + length :]
    try:
        without: object = written(decode(data))
    except (IntegrityError, ResourceExhaustedError) as error:
        without = type(error)
    try:
        within: object = written(recognised(data, table_of(tensors())))
    except (IntegrityError, ResourceExhaustedError) as error:
        within = type(error)
    assert within == without


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_with_tensors_of_its_own_a_reader_refuses_what_it_refuses_without(data: st.DataObject) -> None:
    """Whatever is changed in a manifest: to have the tensors that are likely to be meant never lets more pass."""
    table = table_of(tensors())
    plain = copy.deepcopy(PLAIN)
    place: Any = plain
    for _ in range(4):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(
        st.sampled_from([None, True, 0, 1, -1, 64, 2**63, "", "0123456789abcdef", [], {}, place[key]])
    )
    changed = msgspec.json.encode(plain)
    try:
        theirs = decode(changed)
        theirs.check_layout(table, op="load")
        without: object = (list(theirs.plan().blobs), theirs.addresses(table), written(theirs))
    except (IntegrityError, LayoutMismatchError, ResourceExhaustedError) as error:
        without = type(error)
    try:
        mine = recognised(changed, table)
        mine.check_layout(table, op="load")
        within: object = (list(mine.plan().blobs), mine.addresses(table), written(mine))
    except (IntegrityError, LayoutMismatchError, ResourceExhaustedError) as error:
        within = type(error)
    assert within == without
