"""Streams, events and callbacks of the simulated runtime."""

import pytest

from .runtime import run

STREAM_SYNC_TIMEOUT, EVENT_SYNC_TIMEOUT, REPORT_TIMEOUT = 507046, 507047, 507012
COPY_DATA, CONTEXT_NULL, INVALID_DEVICE, INVALID_HANDLE = 507052, 107002, 107001, 107017
NO_CALLBACK_REGISTERED, THREAD_SUBSCRIBE, PARAM_INVALID = 107015, 107012, 107000


def test_a_thread_has_no_device_until_it_sets_one():
    said = run("""
import threading
device = ctypes.c_int(-5)
say(acl.aclrtGetDevice(ctypes.byref(device)))
say(acl.aclrtCreateStream(ctypes.byref(ctypes.c_void_p())))
say(acl.aclrtMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(1), 0))
say(hccl.HcclGetRootInfo(ctypes.create_string_buffer(4108)))
set_device(3)
ok(acl.aclrtGetDevice(ctypes.byref(device)))
say(device.value)
found = []
other = threading.Thread(target=lambda: found.append(acl.aclrtGetDevice(ctypes.byref(device))))
other.start(); other.join()
say(found[0])
ok(acl.aclrtResetDevice(3))
say(acl.aclrtGetDevice(ctypes.byref(device)))
""").said
    assert said == [CONTEXT_NULL, CONTEXT_NULL, CONTEXT_NULL, 15, 3, CONTEXT_NULL, CONTEXT_NULL]


def test_devices_are_counted_and_checked():
    said = run(
        """
count = ctypes.c_uint(0)
ok(acl.aclrtGetDeviceCount(ctypes.byref(count)))
status = ctypes.c_int(-1)
say([count.value, acl.aclrtSetDevice(2), acl.aclrtSetDevice(3), acl.aclrtSetDevice(-1)])
query = lambda device: acl.aclrtQueryDeviceStatus(device, ctypes.byref(status))
say([query(2), status.value, query(3)])
value = ctypes.c_int64(-1)
info = lambda kind: rt.rtGetDeviceInfo(2, 0, kind, ctypes.byref(value))
say([info(18), value.value, info(17)])
""",
        YR_FASTLOAD_SIM_DEVICES=3,
    ).said
    assert said == [[3, 0, INVALID_DEVICE, INVALID_DEVICE], [0, 0, INVALID_DEVICE], [0, 2, 207000]]


def test_tasks_of_a_stream_run_in_order_and_do_not_hold_up_the_caller():
    said = run(
        """
set_device(); s = stream()
size = 64
chain = [buffer(size, 1)] + [buffer(size) for _ in range(300)]
begun = time.monotonic()
for a, b in zip(chain, chain[1:]): ok(copy_async(b, a, size, s))
say(time.monotonic() - begun)
ok(synchronize(s))
say(all(b.raw == chain[0].raw for b in chain))
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=300",
    ).said
    assert said[0] < 0.25
    assert said[1]


def test_two_streams_run_beside_each_other():
    said = run(
        """
set_device(); waiting, free = stream(), stream(); n = notify()
a, b, c = buffer(8, 1), buffer(8), buffer(8)
ok(rt.rtNotifyWait(n, waiting))
ok(copy_async(b, a, 8, waiting))
ok(copy_async(c, a, 8, free))
ok(synchronize(free, 5000))
say([c.raw == a.raw, b.raw == a.raw])
ok(rt.rtNotifyRecord(n, free))
ok(synchronize(waiting, 5000))
say(b.raw == a.raw)
"""
    ).said
    assert said == [[True, False], True]


def test_synchronizing_ends_at_its_timeout():
    said = run(
        """
set_device(); s = stream(); a, b = buffer(8, 1), buffer(8)
ok(copy_async(b, a, 8, s))
say(elapsed(synchronize, s, 50))
say(elapsed(synchronize, s, 5000))
""",
        YR_FASTLOAD_SIM_FAULTS="copy:delay_ms=300",
    ).said
    assert said[0][1] == STREAM_SYNC_TIMEOUT
    assert 0.04 < said[0][0] < 0.25
    assert said[1][1] == 0


def test_an_error_stays_with_its_stream_and_nothing_runs_behind_it():
    said = run(
        """
set_device(); s, other = stream(), stream(); e, before = event(), event()
a, b, c = buffer(8, 1), buffer(8), buffer(8)
ok(acl.aclrtRecordEvent(before, s))
ok(copy_async(b, a, 8, s))
late = copy_async(c, a, 8, s)
recorded = acl.aclrtRecordEvent(e, s)
say([synchronize(s), synchronize(s), synchronize(s, 100)])
say([b.raw == a.raw, c.raw == a.raw])
say([acl.aclrtSynchronizeEvent(before), acl.aclrtSynchronizeEventWithTimeout(e, 2000), copy_async(c, a, 8, s)])
ok(copy_async(c, a, 8, other))
say([synchronize(other), c.raw == a.raw])
say(acl.aclrtDestroyStream(s))
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:fail",
    ).said
    assert said[0] == [COPY_DATA] * 3
    assert said[1] == [False, False]
    assert said[2] == [0, COPY_DATA, COPY_DATA]
    assert said[3] == [0, True]
    assert said[4] == 0


def test_destroying_waits_and_destroying_by_force_drops():
    said = run(
        """
set_device(); patient, rash = stream(), stream()
a, b, c, d = buffer(8, 1), buffer(8), buffer(8), buffer(8)
ok(copy_async(b, a, 8, patient))
say(elapsed(acl.aclrtDestroyStream, patient))
say(b.raw == a.raw)
ok(copy_async(c, a, 8, rash))
ok(copy_async(d, a, 8, rash))
say(elapsed(acl.aclrtDestroyStreamForce, rash))
say([c.raw == a.raw, d.raw == a.raw])
say([synchronize(rash), copy_async(d, a, 8, rash), acl.aclrtDestroyStream(rash)])
say(counters()["streams"])
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=200;copy@2:delay_ms=20000",
    ).said
    assert said[0][1] == 0
    assert said[0][0] > 0.15
    assert said[1]
    assert said[2][1] == 0
    assert said[2][0] < 5
    assert said[3] == [False, False]
    assert said[4] == [INVALID_HANDLE] * 3
    assert said[5] == 0


def test_events_tell_when_their_record_is_reached():
    said = run(
        """
set_device(); s = stream(); e = event(); a, b = buffer(8, 1), buffer(8)
status = ctypes.c_int(-1)
def query():
    ok(acl.aclrtQueryEventStatus(e, ctypes.byref(status)))
    return status.value
say(query())
ok(copy_async(b, a, 8, s)); ok(acl.aclrtRecordEvent(e, s))
say([query(), acl.aclrtSynchronizeEventWithTimeout(e, 30)])
say([acl.aclrtSynchronizeEvent(e), query(), b.raw == a.raw])
ok(copy_async(b, a, 8, s)); ok(acl.aclrtRecordEvent(e, s))
say([query(), acl.aclrtSynchronizeEventWithTimeout(e, 5000), query()])
ok(acl.aclrtDestroyEvent(e))
say([acl.aclrtDestroyEvent(e), acl.aclrtRecordEvent(e, s), counters()["events"]])
""",
        YR_FASTLOAD_SIM_FAULTS="copy:delay_ms=200",
    ).said
    assert said == [0, [0, EVENT_SYNC_TIMEOUT], [0, 1, True], [0, 0, 1], [INVALID_HANDLE, INVALID_HANDLE, 0]]


def test_callbacks_run_in_the_subscribed_thread_and_may_block_the_stream():
    said = run("""
import threading
set_device(); s = stream(); a, b = buffer(8, 1), buffer(8)
ran = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def callback(data):
    ran.append((data, threading.current_thread().name, b.raw == a.raw))
    time.sleep(0.1)
stop = threading.Event()
def serve():
    while not stop.is_set(): acl.aclrtProcessReport(20)
server = threading.Thread(target=serve, name="server"); server.start()
say(acl.aclrtLaunchCallback(callback, ctypes.c_void_p(1), 0, s))
ok(acl.aclrtSubscribeReport(ctypes.c_uint64(server.ident), s))
say(acl.aclrtSubscribeReport(ctypes.c_uint64(server.ident), s))
ok(copy_async(b, a, 8, s))
ok(acl.aclrtLaunchCallback(callback, ctypes.c_void_p(2), 1, s))
blocking = elapsed(synchronize, s)
say([blocking[0] > 0.08, blocking[1], ran])
ok(acl.aclrtLaunchCallback(callback, ctypes.c_void_p(3), 0, s))
say(elapsed(synchronize, s)[0] < 0.08)
time.sleep(0.3)
say(len(ran))
ok(acl.aclrtUnSubscribeReport(ctypes.c_uint64(server.ident), s))
say(acl.aclrtLaunchCallback(callback, None, 0, s))
stop.set(); server.join()
ok(acl.aclrtDestroyStream(s))
""").said
    assert said[0] == NO_CALLBACK_REGISTERED
    assert said[1] == 107011
    assert said[2] == [True, 0, [[2, "server", True]]]
    assert said[3:] == [True, 2, NO_CALLBACK_REGISTERED]


def test_processing_reports_ends_at_its_timeout():
    said = run("""
import threading
set_device(); s = stream()
say(elapsed(acl.aclrtProcessReport, 30))
say(acl.aclrtProcessReport(-1))
ok(acl.aclrtSubscribeReport(ctypes.c_uint64(threading.get_ident()), s))
say(elapsed(acl.aclrtProcessReport, 30))
say([acl.aclrtProcessReport(0), acl.aclrtProcessReport(-2)])
""").said
    assert said[0][1] == said[1] == THREAD_SUBSCRIBE
    assert said[2][1] == REPORT_TIMEOUT
    assert 0.02 < said[2][0] < 2
    assert said[3] == [100000, 100000]


def test_a_blocking_callback_that_nobody_will_run_ends_with_its_subscription():
    said = run("""
import threading
set_device(); s = stream()
callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
ok(acl.aclrtSubscribeReport(ctypes.c_uint64(threading.get_ident()), s))
ok(acl.aclrtLaunchCallback(callback, None, 1, s))
say(synchronize(s, 50))
ok(acl.aclrtUnSubscribeReport(ctypes.c_uint64(threading.get_ident()), s))
say(synchronize(s, 5000))
say(elapsed(acl.aclrtDestroyStream, s)[0] < 5)
""").said
    assert said == [STREAM_SYNC_TIMEOUT, NO_CALLBACK_REGISTERED, True]


@pytest.mark.parametrize("call", ["copy(b, a, 9, room=8)", "copy(b, a, 0)", "copy(None, a, 8)", "copy(b, None, 8)"])
def test_copies_of_impossible_sizes_are_refused(call):
    said = run(f"""
set_device(); s = stream(); a, b = buffer(16, 1), buffer(16)
def copy_on_stream(to, source, size, room=None): return copy_async(to, source, size, s, room)
say([{call}, {call.replace("copy(", "copy_on_stream(")}, b.raw == bytes(16)])
""").said
    assert said == [[PARAM_INVALID, PARAM_INVALID, True]]


def test_a_batch_of_copies_names_the_one_that_failed():
    said = run(
        """
set_device()
a, b = [buffer(8, i) for i in range(3)], [buffer(8) for _ in range(3)]
many = ctypes.c_void_p * 3; sizes = (ctypes.c_size_t * 3)(8, 8, 8); indexes = (ctypes.c_size_t * 3)(0, 1, 2)
attributes = ctypes.create_string_buffer(32 * 3); failed = ctypes.c_size_t(7)
to, source = many(*map(ctypes.addressof, b)), many(*map(ctypes.addressof, a))
def batch(rooms):
    count = ctypes.c_size_t(3)
    return acl.aclrtMemcpyBatch(to, rooms, source, sizes, count, attributes, indexes, count, ctypes.byref(failed))
say([batch(sizes), [x.raw == y.raw for x, y in zip(a, b)]])
say([batch(sizes), failed.value])
say([batch((ctypes.c_size_t * 3)(8, 8, 7)), failed.value])
""",
        YR_FASTLOAD_SIM_FAULTS="copy@5:fail",
    ).said
    assert said == [[0, [True] * 3], [COPY_DATA, 1], [PARAM_INVALID, 2]]


def test_the_process_ends_with_live_streams():
    result = run(
        """
set_device()
streams = [stream() for _ in range(8)]
a, b = buffer(8, 1), buffer(8)
n = notify()
for s in streams:
    ok(copy_async(b, a, 8, s)); ok(rt.rtNotifyWait(n, s))
say(True)
""",
        YR_FASTLOAD_SIM_FAULTS="copy@1:freeze",
    )
    assert result.said == [True]
    assert result.stderr == ""
