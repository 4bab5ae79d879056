"""Whose device counts for tensors that do not say it: the settings', the thread's, the loader's, the first."""

from __future__ import annotations

import pytest

from .nodes import STAND_INS

pytestmark = pytest.mark.worker


def test_source_and_reader_are_on_devices_of_their_own(node, model):
    source, reader = node("source"), node("reader")
    source.call("publish", model=model)
    assert reader.call("load", model=model)["equal"]
    assert source.call("devices")["used"] == ["simulated-npu:0"]
    assert reader.call("devices")["used"] == ["simulated-npu:1"]


def test_the_thread_s_device_counts_when_bytes_move(node, model):
    one = node("one")
    one.call("publish", model=model)
    two = node("two", **STAND_INS)
    assert two.call("load_from_threads", model=model, devices=[3, None]) == {"equal": [True, True], "thread": 1}
    # The main thread's when it was made, that of a thread, and for one that has none that of the first.
    assert two.call("devices")["used"] == ["simulated-npu:1", "simulated-npu:3"]


def test_a_setting_counts_most_and_leaves_the_thread_what_it_has(node, model):
    one, two = node("one"), node("two", **STAND_INS)
    one.call("publish", model=model)
    assert two.call("load", model=model, settings={"device_index": 5})["equal"]
    assert two.call("devices") == {"used": ["simulated-npu:5"], "thread": 1}
