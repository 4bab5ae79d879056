"""Notifies and FFTS+ tasks of the simulated runtime."""

import pytest

from .runtime import run

INVALID_HANDLE, PARAM_INVALID, NOT_SUPPORTED, TIMEOUT = 107017, 107000, 207000, 507048


def test_notifies_order_two_streams():
    said = run(
        """
set_device(); first, second = stream(), stream(); n = notify()
a, b, c = buffer(64, 1), buffer(64), buffer(64)
ok(rt.rtNotifyWait(n, second)); ok(copy_async(c, b, 64, second))
ok(copy_async(b, a, 64, first)); ok(rt.rtNotifyRecord(n, first))
ok(synchronize(second, 10000))
say(c.raw == a.raw)
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=200",
    ).said
    assert said == [True]


def test_a_notify_is_a_flag():
    said = run("""
set_device(); first, second = stream(), stream(); n = notify()
for _ in range(3): ok(rt.rtNotifyRecord(n, first))
ok(synchronize(first))
ok(rt.rtNotifyWait(n, second))
say(synchronize(second, 5000))
ok(rt.rtNotifyWait(n, second))
say(synchronize(second, 50))
ok(rt.rtNotifyRecord(n, first))
say([synchronize(second, 5000), counters()["notifies"], rt.rtNotifyDestroy(n), counters()["notifies"]])
say([rt.rtNotifyDestroy(n), rt.rtNotifyRecord(n, first)])
""").said
    assert said == [0, 507046, [0, 1, 0, 0], [INVALID_HANDLE, INVALID_HANDLE]]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("rt.rtNotifyDestroy(n), synchronize(s, 5000)", INVALID_HANDLE),
        ("acl.aclrtDestroyStreamForce(s), synchronize(s)", INVALID_HANDLE),
        ("0, synchronize(s)", TIMEOUT),
    ],
)
def test_a_wait_that_nobody_will_end_ends(end, error):
    said = run(
        f"""
set_device(); s = stream(); n = notify()
ok(rt.rtNotifyWait(n, s)); time.sleep(0.05)
say(elapsed(lambda: ({end})))
say(elapsed(acl.aclrtDestroyStream, s)[0] < 5)
""",
        HCCL_EXEC_TIMEOUT=1,
    ).said
    seconds, results = said[0]
    assert results == [0, error]
    assert seconds < 5
    assert said[1]


def test_a_graph_runs_along_its_edges_not_along_its_array():
    said = run("""
set_device(); s = stream(); size = 32
x = [buffer(size, 1)] + [buffer(size) for _ in range(3)]
# 2 -> 0 -> 1: in the order of the array, x[3] would get what x[2] was before.
contexts = [
    context(source=x[1], to=x[2], size=size, successors=[1], predecessors=1),
    context(source=x[2], to=x[3], size=size, predecessors=1),
    context(source=x[0], to=x[1], size=size, successors=[0]),
]
ok(launch(contexts, s, ready=1)); ok(synchronize(s))
say([b.raw == x[0].raw for b in x])
""").said
    assert said == [[True] * 4]


def test_a_context_waits_for_all_its_predecessors():
    said = run("""
set_device(); s = stream()
a = [buffer(8, i + 1) for i in range(3)]; joined = buffer(24); out = buffer(24)
part = lambda i: (ctypes.c_char * 8).from_buffer(joined, 8 * i)
contexts = [context(source=joined, to=out, size=24, predecessors=3)]
contexts += [context(source=a[i], to=part(i), size=8, successors=[0] if i < 2 else [4]) for i in range(3)]
contexts += [context(kind=0x500, successors=[0], predecessors=1)]
ok(launch(contexts, s, ready=3)); ok(synchronize(s))
say(out.raw == b"".join(b.raw for b in a))
""").said
    assert said == [True]


def test_lanes_as_the_plugin_builds_them():
    said = run("""
set_device(); s = stream(); n = 300; size = 100
a, b = [buffer(size, i) for i in range(n)], [buffer(size) for _ in range(n)]
contexts = [
    context(source=a[i], to=b[i], size=size, successors=[i + 8] if i + 8 < n else [], predecessors=int(i >= 8))
    for i in range(n)
]
ok(launch(contexts, s, ready=8)); ok(synchronize(s))
say([all(x.raw == y.raw for x, y in zip(a, b)), counters()["calls"]["rtGeneralCtrl"]])
""").said
    assert said == [[True, 1]]


@pytest.mark.parametrize(
    ("task", "result", "message"),
    [
        ("[context(kind=4)], s, 1", NOT_SUPPORTED, "context type 4 is not simulated"),
        ("[context(kind=5)], s, 1", NOT_SUPPORTED, "context type 5 is not simulated"),
        ("[context(kind=0x500, successors=[1])], s, 1", PARAM_INVALID, "no such successor of context 0"),
        ("[context(kind=0x500, predecessors=1)], s, 0", PARAM_INVALID, "context 0 does not count its predecessors"),
        (
            "[context(kind=0x500, successors=[1 - i], predecessors=1) for i in range(2)], s, 0",
            PARAM_INVALID,
            "a circle",
        ),
        ("[context(kind=0x500), context(kind=0x500)], s, 1", PARAM_INVALID, "2 contexts are ready, not 1"),
        ("[context(kind=0x500)], s, 1, 2", PARAM_INVALID, "2 contexts in the SQE, 1 given"),
        ("[context(kind=0x500)], s, 1, 1, 2", PARAM_INVALID, "refused: type 2"),
        ("[context(kind=0x500)], ctypes.c_void_p(1234), 1", INVALID_HANDLE, ""),
    ],
)
def test_graphs_that_no_hardware_would_run_are_refused(task, result, message):
    found = run(f"set_device(); s = stream(); say(launch({task})); ok(synchronize(s))")
    assert found.said == [result]
    assert message in found.stderr


def test_other_controls_are_refused():
    found = run("set_device(); say(rt.rtGeneralCtrl((ctypes.c_uint64 * 3)(), 3, 2))")
    assert found.said == [NOT_SUPPORTED]
    assert "rtGeneralCtrl of type 2 is not simulated" in found.stderr
