"""A manifest, and what its parser makes of bytes that were changed."""

from __future__ import annotations

import copy
import hashlib
import json
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from yr_fastload_native import _core
from yr_fastload_native.catalogue.fields import FORMAT
from yr_fastload_native.catalogue.identity import Identity
from yr_fastload_native.catalogue.manifest import Head, Manifest, build_manifest
from yr_fastload_native.catalogue.manifest_codec import decode_manifest, encode_manifest
from yr_fastload_native.errors import IntegrityError
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


def spans() -> st.SearchStrategy[tuple[int, int, bytes]]:
    place = st.integers(0, len(DATA))
    return st.tuples(place, st.integers(0, 12), st.one_of(st.binary(max_size=12), st.sampled_from([b"9", b"]", b'"'])))
