"""vLLM captures graphs right after it has loaded, in a mode in which other threads can end the capture."""

from __future__ import annotations

import uuid

import pytest

from .runtime import run, start
from .test_cuda import PRELUDE
from .test_cuda_d2d import HERE

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
INVALID_VALUE, ILLEGAL_STATE, UNSUPPORTED, INVALIDATED = 1, 401, 900, 901

CAPTURE = """
from gpu import *
import threading
use(); captured, e = stream(), event()
def begin(mode=0): return cuda.cuStreamBeginCapture_v2(captured, mode)
def end():
    graph = ctypes.c_void_p()
    result = cuda.cuStreamEndCapture(captured, ctypes.byref(graph))
    if graph: ok(cuda.cuGraphDestroy(graph))
    return result
def relaxed(function):
    mode = ctypes.c_int(2)
    ok(cuda.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)))
    result = function()
    ok(cuda.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)))
    return result
def elsewhere(function):
    found = []
    def call():
        use(); found.append(function())
    thread = threading.Thread(target=call); thread.start(); thread.join()
    return found[0]
asks = lambda: cuda.cuEventQuery(e)
"""


@pytest.mark.parametrize(
    ("mode", "here", "there"), [(GLOBAL, UNSUPPORTED, UNSUPPORTED), (THREAD_LOCAL, UNSUPPORTED, 0), (RELAXED, 0, 0)]
)
def test_what_threads_may_do_while_one_captures(mode, here, there):
    said = run(
        f"""{CAPTURE}
def meanwhile(function):
    ok(begin({mode}))
    return [function(), end()]
say([meanwhile(asks), meanwhile(lambda: elsewhere(asks))])
say([meanwhile(lambda: relaxed(asks)), meanwhile(lambda: elsewhere(lambda: relaxed(asks)))])
""",
        kind="cuda",
    ).said
    assert said == [[[code, INVALIDATED if code else 0] for code in (here, there)], [[0, 0], [0, 0]]]


def test_a_captured_stream_runs_nothing():
    said = run(
        f"""{CAPTURE}
say([end(), begin(5)])
a, data, status = malloc(64), pinned(64), ctypes.c_int()
ok(upload(a, bytes(64), 64)); ctypes.memset(data, 7, 64)
ok(begin()); ok(cuda.cuStreamIsCapturing(captured, ctypes.byref(status)))
say([begin(), status.value, upload_async(a, data, 64, captured), end()])
back = buffer(64); ok(download(back, a, 64)); say(back.raw == bytes(64))
""",
        kind="cuda",
    ).said
    assert said == [[ILLEGAL_STATE, INVALID_VALUE], [ILLEGAL_STATE, 1, 0, 0], True]


@pytest.mark.worker
@pytest.mark.parametrize(("transport", "settings"), [("host", ""), ("host", "pin='pool'"), ("d2d", "")])
def test_weights_are_published_served_and_pulled_meanwhile(worker, transport, settings):
    prelude = PRELUDE.format(model=uuid.uuid4().hex, worker=worker) + CAPTURE + HERE
    source = f"""
first = loader(publish_as={transport!r}); weights = bulk(1); target = bulk(100)
ok(begin()); publication = first.publish(weights, IDENTITY); say(publication.wait_settled(20)); told()
say([first.check(publication), publication.state])
del weights; publication.close(); first.close(); say(end())
"""
    reader = f"""
told()
target = bulk(100); ok(begin()); second = loader({settings})
for _ in range(2): say(loaded(second, target)[:2])
second.close(); say(end()); say(equal(target, 1))
"""
    with start(prelude + source, kind="cuda") as first, start(prelude + reader, kind="cuda") as second:
        assert first.heard()
        second.tell(1)
        assert second.finish().said == [[transport, True], [transport, True], 0, True]
        first.tell(1)
        assert first.finish().said[1:] == [[[], "live"], 0]
