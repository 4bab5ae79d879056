"""What an identity is hashed from, and the keys that follow."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections import OrderedDict, UserDict
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.errors import InvalidArgumentError

# The check of openYuanrong (RegexKey): nothing else is a key, and no key is longer than 255.
YUANRONG_KEY = re.compile(r"^[a-zA-Z0-9\-_!@#%\^\*\(\)\+\=\:;]*$")

text = st.text(st.characters(codec="utf-8"), max_size=30)
leaves = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | text
leaves |= st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4))
identities = st.dictionaries(text.filter(lambda name: name != "about"), values, min_size=1, max_size=5)


def of(fields: Any) -> Identity:
    return Identity.of(fields, op="load")


def shuffled(value: Any) -> Any:
    """The same said in another order, with other sequences and mappings."""
    if isinstance(value, dict):
        return MappingProxyType({key: shuffled(item) for key, item in reversed(value.items())})
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return value


@settings(deadline=None)
@given(identities)
def test_order_and_kind_of_containers_do_not_matter(fields: dict[str, Any]) -> None:
    one, two = of(fields), of(shuffled(fields))
    assert one.digest == two.digest
    assert one == two
    assert one.fields == fields


@settings(deadline=None)
@given(identities)
def test_the_digest_is_that_of_canonical_json(fields: dict[str, Any]) -> None:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert of(fields).digest == hashlib.sha256(canonical.encode()).hexdigest()


@settings(deadline=None)
@given(identities)
def test_keys_are_keys_of_openyuanrong(fields: dict[str, Any]) -> None:
    who, generation = of(fields), "0123456789abcdef" * 4
    chunk_key = who.chunk_prefix(generation) + "999999"
    for key in (who.head_key, who.manifest_key(generation), chunk_key, who.slot_prefix(generation) + "4096"):
        assert YUANRONG_KEY.match(key)
        assert len(key) <= 255


@settings(deadline=None)
@given(identities)
def test_a_manifest_can_hold_it_and_gives_it_back(fields: dict[str, Any]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(of(fields).fields)) == of(fields).fields


def test_keys_of_names_with_dots_and_slashes() -> None:
    who = of({"model": "org/model-7b.v1.5", "path": "/data/模型/../x y"})
    for key in (who.head_key, who.manifest_key("ab" * 4), who.chunk_prefix("ab" * 4), who.slot_prefix("ab" * 4)):
        assert YUANRONG_KEY.match(key)
        assert who.digest in key


def test_no_two_keys_are_the_same() -> None:
    keys = [
        key
        for who in (of({"model": "a"}), of({"model": "b"}))
        for generation in ("0" * 8, "1" * 8)
        for key in (who.manifest_key(generation), who.chunk_prefix(generation), who.slot_prefix(generation))
    ]
    keys += [of({"model": "a"}).head_key, of({"model": "b"}).head_key]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"b": 1}),
        ({"a": None}, {"a": False}),
        ({"a": None}, {"a": ""}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [1, [2]]}, {"a": [[1], 2]}),
        ({"a": {}}, {"a": []}),
        ({"a": "b", "c": "d"}, {"a": "d", "c": "b"}),
        ({"a": "é"}, {"a": "e\u0301"}),
    ],
)
def test_what_differs_has_another_digest(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert of(one).digest != of(two).digest


@given(identities, values)
def test_what_is_said_about_an_identity_does_not_make_it(fields: dict[str, Any], about: Any) -> None:
    one, two = of(fields), of(fields | {"about": about})
    assert one.digest == two.digest
    assert two.fields["about"] == about
    assert one.is_of(two.fields)
    assert not one.is_of(two.fields | {"more": 1})


def test_an_identity_is_more_than_what_is_said_about_it() -> None:
    with pytest.raises(InvalidArgumentError, match="at least one field that names the model"):
        of({"about": {"model": "a"}})


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Loud(float):
    def __repr__(self) -> str:
        return "loud"


def test_subclasses_count_as_what_they_hold() -> None:
    fancy = UserDict({Colour.RED: Colour.RED, "level": Level.HIGH, "x": Loud(1.5), "o": OrderedDict(z=1)})
    plain = {"red": "red", "level": 3, "x": 1.5, "o": {"z": 1}}
    assert of(fancy) == of(plain)
    assert {type(value) for value in of(fancy).fields.values()} == {str, int, float, dict}
    assert {type(key) for key in of(fancy).fields} == {str}
    assert msgspec.json.decode(msgspec.json.encode(of(fancy).fields)) == plain


def nested(depth: int) -> Any:
    return {"x": nested(depth - 1)} if depth else 1


def cyclic() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    return loop


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "must be a mapping"),
        (None, "must be a mapping"),
        ("model", "must be a mapping"),
        ([("model", "a")], "must be a mapping"),
        ({"a": float("nan")}, "no canonical form"),
        ({"a": [float("inf")]}, "no canonical form"),
        ({"a": {1, 2}}, r"identity\['a'\] is a set"),
        ({"a": {"b": [0, b"x"]}}, r"identity\['a'\]\['b'\]\[1\] is a bytes"),
        ({"a": object()}, "is a object"),
        ({1: "a"}, "has the key 1"),
        ({"a": {None: 1}}, r"identity\['a'\] has the key None"),
        ({"a": 1 << 64}, "64 bits"),
        ({"a": -(1 << 63) - 1}, "64 bits"),
        ({"a": 10**5000}, "64 bits"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"\udfff": 1}, "not valid Unicode"),
        (nested(17), "deeper than 16"),
        (cyclic(), "deeper than 16"),
    ],
)
def test_what_has_no_one_form_is_refused(fields: Any, why: str) -> None:
    with pytest.raises(InvalidArgumentError, match=why) as caught:
        of(fields)
    assert caught.value.op == "load"


def test_bounds_are_inside() -> None:
    assert of(nested(16)).fields == nested(16)
    assert of({"a": (1 << 64) - 1, "b": -(1 << 63)}).fields["a"] == (1 << 64) - 1


def test_later_changes_do_not_reach_it() -> None:
    inner = ["x"]
    who = of({"model": inner})
    inner.append("y")
    assert who.fields == {"model": ["x"]}
