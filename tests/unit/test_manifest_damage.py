"""The manifest as hostile input: it is exactly what this package would have written, or it is refused."""

from __future__ import annotations

import copy
import json
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.catalogue.manifest import Manifest
from yr_fastload_native.catalogue.manifest_codec import decode_head
from yr_fastload_native.errors import IntegrityError, LayoutMismatchError, ResourceExhaustedError

from .manifests import (
    DATA,
    GENERATION,
    HEAD_DATA,
    MANIFEST,
    PLAIN,
    WHO,
    changed,
    decode,
    refused,
    spans,
    table_of,
    tensors,
)


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
