"""The manifest as hostile input: it is exactly what this package would have written, or it is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import time
import tracemalloc
import weakref
from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.catalogue.fields import FORMAT
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import Head, Manifest, build_manifest
from yr_fastload_native.catalogue.manifest_codec import decode_head, decode_manifest, encode_manifest
from yr_fastload_native.errors import IntegrityError, LayoutMismatchError, ResourceExhaustedError
from yr_fastload_native.weights.tensor_table import TensorTable

WHO = Identity.of({"model": "org/model.v1", "parallel": {"rank": 0, "size": 2}}, op="publish")
GENERATION = "0123456789abcdef"
LIMITS = (256, 3)
LOTS = 1 << 30


def tensors() -> dict[str, Any]:
    weight = torch.zeros(10, 30, dtype=torch.bfloat16)
    return {
        "embed": weight,
        "head": weight,
        "rows": weight[4:6],
        "norm": torch.zeros(7),
        "empty": torch.zeros(0, 3),
        "scale": torch.zeros((), dtype=torch.float64),
        "turned": torch.zeros(4, 6).t(),
        "last": torch.zeros(5, dtype=torch.int8),
    }


def table_of(source: Any) -> TensorTable:
    return TensorTable(source, op="load", writable=False, max_tensors=1000)


def build(source: Any, *, who: Identity = WHO, limits: tuple[int, int] = LIMITS) -> Manifest:
    table = table_of(source)
    sizes = array("Q", [t.bytes if table.owner[i] == i else 0 for i, t in enumerate(table.tensors)])
    plan = _core.make_plan(sizes, chunk_bytes=limits[0], max_blobs=limits[1])
    digests = memoryview(array("Q", [(i + 1) * 0x0123456789ABCDEF % 2**64 for i in range(plan.chunks)]))
    return build_manifest(who, GENERATION, table, plan, digests, limits)


MANIFEST = build(tensors())
DATA, HEAD_DATA = encode_manifest(MANIFEST, max_bytes=LOTS, transports=["host"])
PLAIN: dict[str, Any] = json.loads(DATA)


def written(manifest: Manifest) -> bytes:
    return encode_manifest(manifest, max_bytes=LOTS, transports=["host"])[0]


def head_for(data: bytes, **changed: Any) -> Head:
    values = {
        "format": FORMAT,
        "generation": GENERATION,
        "manifest_bytes": len(data),
        "manifest_sha256": hashlib.sha256(data).hexdigest(),
        "transports": ["host"],
    }
    return Head(**(values | changed))


def decode(data: bytes, head: Head | None = None, *, who: Identity = WHO, **bounds: int) -> Manifest:
    """Decode bytes under a head that pins them: what matters is what the parser makes of them."""
    return decode_manifest(
        data, head or head_for(data), who, **({"max_bytes": LOTS, "max_tensors": 1000} | bounds), op="load"
    )


def refused(data: bytes, why: str | None = None) -> None:
    with pytest.raises(IntegrityError, match=why) as caught:
        decode(data)
    assert caught.value.op == "load"


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    plain = copy.deepcopy(PLAIN)
    change(plain)
    return json.dumps(plain).encode()


# -- what is written --------------------------------------------------------------------------------------------------


def test_round_trip() -> None:
    head = decode_head(HEAD_DATA, op="load")
    assert head == head_for(DATA)
    manifest = decode(DATA, head)
    assert manifest == MANIFEST
    assert decode(json.dumps(PLAIN).encode()) == MANIFEST  # the helpers below change nothing by themselves
    manifest.check_layout(table_of(tensors()), op="load")


def test_the_plan_and_the_digests_of_a_manifest() -> None:
    plan = decode(DATA).plan()
    assert plan.total_bytes == 600 + 28 + 8 + 96 + 5
    assert plan.chunks == len(MANIFEST.chunks)
    assert list(MANIFEST.digests().chunks) == [(i + 1) * 0x0123456789ABCDEF % 2**64 for i in range(plan.chunks)]


def test_each_entry_says_where_a_tensor_begins() -> None:
    at = {entry.name: (entry.chunk, entry.offset, entry.alias) for entry in MANIFEST.tensors}
    assert at["embed"] == (0, 0, None)
    assert at["head"] == (-1, 0, ("embed", 0))
    assert at["rows"] == (-1, 0, ("embed", 240))
    assert at["norm"] == (2, 128, None)  # after the last 88 bytes of embed, aligned
    assert at["empty"] == (-1, 0, None)
    assert at["scale"] == (2, 192, None)


def test_which_tensors_a_chunk_holds() -> None:
    plan = MANIFEST.plan()
    assert MANIFEST.chunk_tensors(plan, 0) == ["embed"]
    assert MANIFEST.chunk_tensors(plan, 2) == ["embed", "norm", "scale"]


def test_torch_published_numpy_loads() -> None:
    manifest = build({"a": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.uint8)})
    manifest.check_layout(table_of({"a": np.zeros((3, 4), np.float32), "b": bytearray(2)}), op="load")


def test_addresses_come_in_the_order_of_the_manifest() -> None:
    source = tensors()
    backwards = table_of(dict(reversed(source.items())))
    mapped = MANIFEST.addresses(backwards)
    assert list(mapped) == [0 if name == "empty" else value.data_ptr() for name, value in source.items()]


def test_a_manifest_of_no_tensors() -> None:
    data, head = encode_manifest(build({}), max_bytes=LOTS, transports=["host"])
    manifest = decode(data, decode_head(head, op="load"))
    assert (manifest.tensors, manifest.chunks) == ([], [])


def test_size_is_bounded_on_both_sides() -> None:
    assert encode_manifest(MANIFEST, max_bytes=len(DATA), transports=["host"]) == (DATA, HEAD_DATA)
    with pytest.raises(ResourceExhaustedError, match=f"max_manifest_bytes={len(DATA) - 1}"):
        encode_manifest(MANIFEST, max_bytes=len(DATA) - 1, transports=["host"])
    assert decode(DATA, max_bytes=len(DATA), max_tensors=8) == MANIFEST
    with pytest.raises(ResourceExhaustedError, match="max_manifest_bytes"):
        decode(DATA, max_bytes=len(DATA) - 1)
    with pytest.raises(ResourceExhaustedError, match="max_tensors=7"):
        decode(DATA, max_tensors=7)


# -- which manifest ---------------------------------------------------------------------------------------------------


def test_only_the_manifest_that_the_head_pins() -> None:
    other, _ = encode_manifest(build({"a": torch.zeros(3)}), max_bytes=LOTS, transports=["host"])
    flipped = bytes([*DATA[:-2], DATA[-2] ^ 1, DATA[-1]])
    for data in (other, flipped, DATA[:-1], DATA + b" ", b""):
        with pytest.raises(IntegrityError, match="not the one that the head names"):
            decode(data, head_for(DATA))
    for wrong in ({"manifest_bytes": len(DATA) + 1}, {"manifest_sha256": "0" * 64}):
        with pytest.raises(IntegrityError, match="not the one that the head names"):
            decode(DATA, head_for(DATA, **wrong))


def test_only_the_manifest_of_this_identity_and_generation() -> None:
    for who in (Identity.of({"model": "other"}, op="load"), Identity.of({**WHO.fields, "more": 1}, op="load")):
        with pytest.raises(IntegrityError, match="another identity"):
            decode(DATA, who=who)
    with pytest.raises(IntegrityError, match="identity or generation"):
        decode(DATA, head_for(DATA, generation="f" * 16))


@pytest.mark.parametrize("wrong", [0, 2, -1, 10**30])
def test_only_this_format(wrong: int) -> None:
    refused(changed(lambda plain: plain.update(format=wrong)))
    with pytest.raises(IntegrityError):
        decode_head(json.dumps(json.loads(HEAD_DATA) | {"format": wrong}).encode(), op="load")
    refused(changed(lambda plain: plain.update(format=2)), "format 2; this version reads format 1")


def test_only_this_digest() -> None:
    refused(changed(lambda plain: plain.update(digest="crc32")), "digest 'crc32'")


# -- damage -----------------------------------------------------------------------------------------------------------


def test_truncated_anywhere() -> None:
    lengths = {*range(200), *range(len(DATA) - 200, len(DATA)), *random.Random(1).sample(range(len(DATA)), 300)}
    for length in lengths:
        refused(DATA[:length], "is not valid")
    for length in range(len(HEAD_DATA)):
        with pytest.raises(IntegrityError, match="the head is not valid"):
            decode_head(HEAD_DATA[:length], op="load")


TENSOR = {"name": 0, "dtype": 1, "shape": 2, "strides": 3, "bytes": 4, "chunk": 5, "offset": 6, "alias": 7}
CHUNK = {"key": 0, "bytes": 1, "blobs": 2, "digest": 3}
JUNK: list[Any] = [None, True, -2, 1.5, 2**63, 2**64, 10**40, "", "x", [], [None], {}, {"a": 1}, "\u0000" * 5000]


def set_entry(kind: str, index: int, field: int, value: Any) -> bytes:
    return changed(lambda plain: plain[kind][index].__setitem__(field, value))


@pytest.mark.parametrize("field", [name for name in PLAIN if name not in ("publisher", "published_unix_s")])
def test_junk_in_every_field(field: str) -> None:
    for junk in JUNK:
        refused(changed(lambda plain, junk=junk: plain.update({field: junk})))


@pytest.mark.parametrize("field", ["publisher", "published_unix_s"])
def test_junk_in_fields_that_nothing_depends_on(field: str) -> None:
    kind = str if field == "publisher" else float
    for junk in JUNK:
        if type(junk) not in ((str,) if kind is str else (int, float)):
            refused(changed(lambda plain, junk=junk: plain.update({field: junk})), "is not valid")


@pytest.mark.parametrize("field", [name for name in TENSOR if name not in ("dtype", "name", "shape", "strides")])
def test_junk_in_every_number_of_a_tensor(field: str) -> None:
    for index in range(len(PLAIN["tensors"])):
        for junk in JUNK:
            if junk != PLAIN["tensors"][index][TENSOR[field]]:
                refused(set_entry("tensors", index, TENSOR[field], junk))


@pytest.mark.parametrize("field", ["dtype", "name", "shape", "strides"])
def test_junk_in_every_name_and_shape_of_a_tensor(field: str) -> None:
    """One of the right form is a layout like another, which is for `check_layout` to refuse."""
    for junk in JUNK:
        data = set_entry("tensors", 3, TENSOR[field], junk)
        if junk == "x" and field in ("dtype", "name"):
            with pytest.raises(LayoutMismatchError):
                decode(data).check_layout(table_of(tensors()), op="load")
        elif junk == [] and field in ("shape", "strides"):
            with pytest.raises(LayoutMismatchError, match=f"'norm' has {field}"):
                decode(data).check_layout(table_of(tensors()), op="load")
        else:
            refused(data, "is not valid")


@pytest.mark.parametrize("field", CHUNK)
def test_junk_in_every_field_of_a_chunk(field: str) -> None:
    for index in range(len(PLAIN["chunks"])):
        for junk in JUNK:
            refused(set_entry("chunks", index, CHUNK[field], junk))


@pytest.mark.parametrize("field", PLAIN)
def test_every_field_is_needed_and_no_other_is_known(field: str) -> None:
    refused(changed(lambda plain: plain.pop(field)), f"missing required field `{field}`")
    refused(changed(lambda plain: plain.update({field + "2": 1})), f"unknown field `{field}2`")


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("more tensor fields", lambda p: p["tensors"][0].append(1), "not valid"),
        ("fewer tensor fields", lambda p: p["tensors"][0].pop(), "not valid"),
        ("more chunk fields", lambda p: p["chunks"][0].append(1), "not valid"),
        ("fewer chunk fields", lambda p: p["chunks"][0].pop(), "not valid"),
        ("tensor as mapping", lambda p: p["tensors"].__setitem__(0, {"name": "a"}), "not valid"),
        ("one name twice", lambda p: p["tensors"].append(list(p["tensors"][4])), "two tensors have one name"),
        ("chunk less", lambda p: p["chunks"].pop(), "chunks"),
        ("chunk twice", lambda p: p["chunks"].append(list(p["chunks"][0])), "chunks"),
        ("chunks swapped", lambda p: p["chunks"].reverse(), "chunks"),
        ("other chunk size", lambda p: p["chunks"][2].__setitem__(1, p["chunks"][2][1] - 1), "chunks"),
        ("other blobs", lambda p: p["chunks"][2].__setitem__(2, p["chunks"][2][2] + 1), "chunks"),
        ("key of another", lambda p: p["chunks"][1].__setitem__(0, "yrfl1-chunk-other-0"), "chunks"),
        ("tensor grows", lambda p: p["tensors"][0].__setitem__(4, 700), None),
        ("tensor beyond the chunks", lambda p: p["tensors"][-1].__setitem__(4, 300), "chunks"),
        ("offset past the end", lambda p: p["tensors"][3].__setitem__(6, 10**6), "is not at offset 1000000"),
        ("offset next to it", lambda p: p["tensors"][3].__setitem__(6, 64), "is not at offset 64"),
        ("chunk past the end", lambda p: p["tensors"][3].__setitem__(5, 99), "of chunk 99"),
        ("nowhere", lambda p: p["tensors"][3].__setitem__(5, -1), "of chunk -1"),
        ("empty somewhere", lambda p: p["tensors"][4].__setitem__(5, 0), "of chunk 0"),
        ("alias of nothing", lambda p: p["tensors"][1].__setitem__(7, ["gone", 0]), "'head' does not lie in 'gone'"),
        ("alias of itself", lambda p: p["tensors"][1].__setitem__(7, ["head", 0]), "does not lie in 'head'"),
        ("alias of an alias", lambda p: p["tensors"][1].__setitem__(7, ["rows", 0]), "does not lie in 'rows'"),
        ("alias past the end", lambda p: p["tensors"][1].__setitem__(7, ["embed", 1]), "does not lie in 'embed'"),
        ("alias far away", lambda p: p["tensors"][1].__setitem__(7, ["embed", 2**63 - 1]), "does not lie in"),
        ("alias becomes a tensor", lambda p: p["tensors"][1].__setitem__(7, None), "chunks"),
        ("tensor becomes an alias", lambda p: p["tensors"][3].__setitem__(7, ["embed", 0]), None),
        ("limits", lambda p: p.update(chunk_bytes=512), "chunks"),
        ("limits of no chunk", lambda p: p.update(chunk_bytes=100), "multiple of 64"),
        ("no blobs", lambda p: p.update(max_blobs=0), "max_blobs"),
        ("huge limits", lambda p: p.update(chunk_bytes=2**62), "1 TiB"),
        ("order", lambda p: p["tensors"].reverse(), None),
        ("generation", lambda p: p.update(generation="f" * 16), "identity or generation"),
        ("generation with a slash", lambda p: p.update(generation="../../etc"), "not valid"),
        ("digest in capitals", lambda p: p["chunks"][0].__setitem__(3, "ABCDEF0123456789"), "not valid"),
        ("digest with a newline", lambda p: p["chunks"][0].__setitem__(3, "0" * 16 + "\n"), "not valid"),
    ],
    ids=lambda value: value if isinstance(value, str) and value else "",
)
def test_contradictions(name: str, change: Callable[[dict[str, Any]], Any], why: str) -> None:
    refused(changed(change), why)


def test_bytes_that_fit_the_plan_but_no_tensor_are_refused_by_the_layout() -> None:
    manifest = decode(set_entry("tensors", 0, TENSOR["bytes"], 601))  # one more, which alignment has room for
    with pytest.raises(LayoutMismatchError, match="'embed' has bytes 601 published, 600 here"):
        manifest.check_layout(table_of(tensors()), op="load")


NOT_JSON = {
    "nothing": b"",
    "zeros": bytes(100),
    "another type": b"[]",
    "a number": b"1",
    "nan": DATA.replace(b'"chunk_bytes":256', b'"chunk_bytes":NaN'),
    "infinity": DATA.replace(b'"chunk_bytes":256', b'"chunk_bytes":Infinity'),
    "1e999": DATA.replace(b'"chunk_bytes":256', b'"chunk_bytes":1e999'),
    "an endless number": DATA.replace(b'"chunk_bytes":256', b'"chunk_bytes":' + b"9" * 100_000),
    "an endless format": DATA.replace(b'"format":1', b'"format":' + b"9" * 5_000),
    "a leading zero": DATA.replace(b'"chunk_bytes":256', b'"chunk_bytes":0256'),
    "no UTF-8": DATA.replace(b"embed", b"emb\xff\xfe"),
    "cut UTF-8": DATA.replace(b"embed", b"emb\xe6\xa8"),
    "a lone surrogate": DATA.replace(b"embed", b"emb\\ud800"),
    "a raw newline": DATA.replace(b"embed", b"emb\ned"),
    "UTF-16": DATA.decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + DATA,
    "two": DATA + DATA,
    "deep lists": b"[" * 1_000_000,
    "deep mappings": b'{"a":' * 1_000_000,
    "deep identity": DATA.replace(b'"identity":{', b'"identity":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b","),
    "other identity": DATA.replace(b'"rank":0', b'"rank":1'),
    "deep shape": DATA.replace(b"[10,30]", b"[" * 100_000),
}


@pytest.mark.parametrize("kind", NOT_JSON)
def test_bytes_that_are_no_manifest(kind: str) -> None:
    assert NOT_JSON[kind] != DATA
    start = time.monotonic()
    refused(NOT_JSON[kind])
    with pytest.raises(IntegrityError):
        decode_head(NOT_JSON[kind], op="load")
    assert time.monotonic() - start < 20


def test_a_million_chunks_cost_little() -> None:
    """A tensor of any size claims chunks that are not there: nothing is made for each of them."""
    for size in (64 * 1_000_000, 2**62):
        entry = ["big", "uint8", [size], [1], size, 0, 0, None]
        data = changed(lambda p, entry=entry: p.update(chunk_bytes=64, tensors=[entry]))
        tracemalloc.start()
        refused(data, "chunks")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20
    refused(changed(lambda p: p.update(chunks=[p["chunks"][0]] * 100_000)), "chunks")


def test_the_sum_of_sizes_may_pass_64_bits() -> None:
    entries = [[f"t{i}", "uint8", [], [], 2**63 - 1, 0, 0, None] for i in range(4)]
    refused(changed(lambda p: p.update(tensors=entries, chunk_bytes=1 << 40)), "chunks|2\\^64")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    refused(data)
    with pytest.raises(IntegrityError):
        decode_head(data, op="load")


def spans() -> st.SearchStrategy[tuple[int, int, bytes]]:
    place = st.integers(0, len(DATA))
    return st.tuples(place, st.integers(0, 12), st.one_of(st.binary(max_size=12), st.sampled_from([b"9", b"]", b'"'])))


@settings(deadline=None)
@given(st.lists(spans(), min_size=1, max_size=3))
def test_mutated_bytes_are_refused_or_harmless(mutations: list[tuple[int, int, bytes]]) -> None:
    data = DATA
    for start, length, replacement in mutations:
        data = data[:start] + replacement + data[start + length :]
    try:
        manifest = decode(data)
    except (IntegrityError, ResourceExhaustedError):
        return
    check_harmless(manifest)


def check_harmless(manifest: Manifest) -> None:
    """What was accepted has a plan of its own, and no key of somebody else."""
    plan = manifest.plan()
    assert [chunk.key for chunk in manifest.chunks] == _core.chunk_keys(WHO.chunk_prefix(GENERATION), plan.chunks)
    assert [chunk.bytes for chunk in manifest.chunks] == list(plan.chunk_bytes)
    assert len(manifest.digests().chunks) == plan.chunks
    assert len({tensor.name for tensor in manifest.tensors}) == plan.tensors
    try:
        manifest.check_layout(table_of(tensors()), op="load")
    except LayoutMismatchError:
        return
    assert plan.total_bytes == MANIFEST.plan().total_bytes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.data(), json_values)
def test_mutated_values_are_refused_or_harmless(data: st.DataObject, value: Any) -> None:
    plain: Any = copy.deepcopy(PLAIN)
    node = plain
    for _ in range(4):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = value
    try:
        manifest = decode(json.dumps(plain).encode())
    except (IntegrityError, ResourceExhaustedError):
        return
    check_harmless(manifest)


@pytest.mark.parametrize("field", ["format", "generation", "manifest_bytes", "manifest_sha256", "transports"])
def test_junk_in_every_field_of_a_head(field: str) -> None:
    plain = json.loads(HEAD_DATA)
    for junk in JUNK:
        if field != "transports" or junk != []:
            with pytest.raises(IntegrityError, match="the head"):
                decode_head(json.dumps(plain | {field: junk}).encode(), op="load")
    for data in ({**plain, "more": 1}, {key: plain[key] for key in plain if key != field}):
        with pytest.raises(IntegrityError, match="the head is not valid"):
            decode_head(json.dumps(data).encode(), op="load")


# -- layout -----------------------------------------------------------------------------------------------------------


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


# -- tensors that are recognised --------------------------------------------------------------------------------------


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
