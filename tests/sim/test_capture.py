"""Graphs are captured right after weights are loaded, and keep other threads from copying synchronously meanwhile."""

from __future__ import annotations

import pytest

from .runtime import run

STREAM_CAPTURED, NOT_CAPTURED, MODE_NOT_SUPPORTED, PARAM_INVALID = 107027, 107029, 107030, 107000
GLOBAL, THREAD_LOCAL, RELAXED = range(3)

CAPTURE = """
import threading
set_device(); s, other = stream(), stream(); a, b = buffer(64, 1), buffer(64)
graph = ctypes.c_void_p()
def elsewhere(function):
    found = []
    def call():
        set_device()
        found.append(function())
    thread = threading.Thread(target=call); thread.start(); thread.join()
    return found[0]
def relaxed(function):
    mode = ctypes.c_int(2)
    ok(acl.aclmdlRICaptureThreadExchangeMode(ctypes.byref(mode)))
    result = function()
    ok(acl.aclmdlRICaptureThreadExchangeMode(ctypes.byref(mode)))
    return [result, mode.value]
now = lambda: copy(b, a, 64)
end = lambda: acl.aclmdlRICaptureEnd(s, ctypes.byref(graph))
"""


@pytest.mark.parametrize(
    ("mode", "here", "there"),
    [(GLOBAL, MODE_NOT_SUPPORTED, MODE_NOT_SUPPORTED), (THREAD_LOCAL, MODE_NOT_SUPPORTED, 0), (RELAXED, 0, 0)],
)
def test_what_threads_may_do_while_one_captures(mode, here, there):
    said = run(f"""{CAPTURE}
ok(acl.aclmdlRICaptureBegin(s, {mode}))
say([now(), elsewhere(now), relaxed(now), elsewhere(lambda: relaxed(now))])
say([copy_async(b, a, 64, other), synchronize(other)])
ok(end()); ok(acl.aclmdlRIDestroy(graph))
say([now(), elsewhere(now)])
""").said
    assert said == [[here, there, [0, RELAXED], [0, RELAXED]], [0, 0], [0, 0]]


def test_a_captured_stream_runs_nothing_and_nobody_may_wait_for_it():
    said = run(f"""{CAPTURE}
say([end(), acl.aclmdlRICaptureBegin(s, 5)])
ok(acl.aclmdlRICaptureBegin(s, 2))
status = ctypes.c_int()
info = lambda: [acl.aclmdlRICaptureGetInfo(s, ctypes.byref(status), ctypes.byref(graph)), status.value]
say([acl.aclmdlRICaptureBegin(s, 2), info(), copy_async(b, a, 64, s), synchronize(s), synchronize(s, 10)])
say(acl.aclrtSynchronizeDevice())
ok(end())
say([synchronize(s), b.raw == bytes(64), info(), acl.aclrtSynchronizeDevice()])
""").said
    captured = [STREAM_CAPTURED, [0, 1], 0, STREAM_CAPTURED, STREAM_CAPTURED]
    assert said == [[NOT_CAPTURED, PARAM_INVALID], captured, STREAM_CAPTURED, [0, True, [0, 0], 0]]


@pytest.mark.worker
@pytest.mark.parametrize("transport", ["d2d", "staged", "host"])
def test_weights_are_published_served_and_pulled_meanwhile(node, model, transport):
    source, reader = node("source"), node("reader")
    source.call("publish", model=f"{model}-before", settings={"publish_as": transport})
    for each in (source, reader):
        assert each.call("begin_capture") == {"synchronous_copy": MODE_NOT_SUPPORTED}
    assert source.call("publish", model=model, settings={"publish_as": transport})["settled"]
    for name in (model, f"{model}-before"):
        answer = reader.call("load", model=name)
        assert (answer["equal"], answer["transport"], answer["retried"]) == (True, transport, 0)
    for each in (source, reader):
        assert each.call("end_capture") == {"results": [0, 0, 0]}
    assert source.call("states") == {"states": ["live", "live"]}
    assert source.call("check", model=model)["changed"] == []
