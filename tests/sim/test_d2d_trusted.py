"""Content digests device to device, where digests follow the publication, and sources are readers too."""

from __future__ import annotations

import pytest

import yr_fastload_native as fl

from ..waiting import wait_until
from .kinds import both_kinds, kinds_and_transports

pytestmark = pytest.mark.worker

SUMS = {"publish_sha256": True, "chunk_bytes": 1 << 20}


def pin_of(model, seed=1):
    from node_tensors import weights

    return fl.content_digest(weights(seed, 0, 0), {"model": model})  # one tensor of every kind


@kinds_and_transports(never=[("ascend", "host")], later=[("ascend", "staged")])
def test_what_is_trusted_arrives_and_nothing_else(node, model, transport):
    source, reader, late = node("source"), node("reader"), node("late")
    published = source.call("publish", model=model, count=0, settings={**SUMS, "publish_as": transport})
    assert published["settled"]
    trusting = {"trusted_digests": f"{'0' * 64},{pin_of(model)}"}
    answer = reader.call("load", model=model, count=0, settings=trusting)
    assert (answer["equal"], answer["transport"], answer["retried"]) == (True, transport, 0)
    source.call("close")
    answer = late.call("load", model=model, count=0, settings=trusting)  # from the reader
    assert (answer["equal"], answer["transport"]) == (True, transport)
    refused = node("refused").call("load", model=model, count=0, settings={"trusted_digests": pin_of(model, seed=2)})
    assert refused["error"] == "INTEGRITY"
    assert "has published weights of content digest " + pin_of(model) in refused["message"]


@both_kinds
def test_a_reader_waits_for_the_sums_that_follow(node, model):
    source, reader = node("source"), node("reader")
    source.start("publish", model=model, count=0, settings={**SUMS, "publish_as": "d2d"})

    def answer():
        found = reader.call("load", model=model, count=0, settings={"trusted_digests": pin_of(model)})
        return found if found.get("error") != "NOT_PUBLISHED" else None

    assert wait_until(answer)["equal"]
    assert source.finish()["settled"]


@both_kinds
def test_a_source_that_serves_other_bytes_is_found_out_whatever_it_says_itself(node, model):
    """Without the chunk digest (verify=layout) as with it."""
    source, spoilt, reader = node("source"), node("spoilt"), node("reader")
    source.call("publish", model=model, count=0, settings={**SUMS, "publish_as": "d2d"})
    assert spoilt.call("load", model=model, count=0)["equal"]
    spoilt.call("spoil")
    source.call("close")
    settings = {"trusted_digests": pin_of(model), "verify": "layout"}
    answer = reader.call("load", model=model, count=0, settings=settings)
    assert answer["error"] == "INTEGRITY"
    assert "are not the trusted ones by SHA-256" in answer["message"]
