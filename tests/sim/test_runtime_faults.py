"""Faults on demand, the control file, the link model and the settings of the simulated runtime."""

import os

import pytest

from .runtime import meet, pair, run, start

COPY_DATA, INTERNAL_ERROR, REMOTE_ERROR, TRANSFER_TIMEOUT = 507052, 507000, 507057, 507048
INVALID_HANDLE = 107017

SEND = "s = stream(); a = buffer(1000, 1)\n"
RECEIVE = "s = stream(); b = buffer(1000)\n"
ONE_SEND = SEND + "ok(send(comm, a, 1000, s)); say(elapsed(synchronize, s, 20000))"
DESTROY_COMM = "; time.sleep(0.2); ok(hccl.HcclCommDestroy(comm))"
DESTROY_STREAM = "; time.sleep(0.2); ok(acl.aclrtDestroyStreamForce(s))"
ONE_RECEIVE = RECEIVE + "ok(receive(comm, b, 1000, s)); say(elapsed(synchronize, s, 20000))"


def write(path, text):
    """Replaces a control file, as its users should: at once."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("copy@2:fail", [2]),
        ("copy@2+:fail", [2, 3, 4]),
        ("copy:fail", [1, 2, 3, 4]),
        ("copy@1:fail; copy@3:fail", [1, 3]),
        ("send:fail\n# a comment\n\n  copy@4:fail  # the last", [4]),
        ("", []),
    ],
)
def test_faults_choose_operations_by_number(fault, failed):
    said = run(
        """
set_device(); a, b = buffer(8, 1), buffer(8)
say([i + 1 for i in range(4) if copy(b, a, 8) != 0])
say(sum(counters()["faults_hit"].values()))
""",
        YR_FASTLOAD_SIM_FAULTS=fault,
    ).said
    assert said == [failed, len(failed)]


def test_a_delay_delays():
    said = run(
        "set_device(); a, b = buffer(8, 1), buffer(8); say(elapsed(copy, b, a, 8)); say(elapsed(copy, b, a, 8))",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=200",
    ).said
    assert said[0][0] > 0.19
    assert said[1][0] < 0.15
    assert said[0][1] == said[1][1] == 0


@pytest.mark.parametrize("flips", [1, 3, 1000, 5000])
def test_corruption_flips_so_many_bytes(flips):
    said = run(
        """
set_device(); a, b = buffer(1000, 1), buffer(1000); ok(copy(b, a, 1000))
wrong = [i for i in range(1000) if a.raw[i] != b.raw[i]]
say([len(wrong), max(wrong) - min(wrong)])
""",
        YR_FASTLOAD_SIM_FAULTS=f"copy:corrupt={flips}",
    ).said
    expected = min(flips, 1000)
    assert said[0][0] == expected
    assert said[0][1] >= 1000 * (expected - 1) // expected - 1


def test_memory_runs_out_on_demand():
    said = run(
        """
set_device(); p = ctypes.c_void_p()
say([acl.aclrtMalloc(ctypes.byref(p), ctypes.c_size_t(8), 0) for _ in range(4)])
say(counters()["faults_hit"])
""",
        YR_FASTLOAD_SIM_FAULTS="malloc@2:oom;malloc@3:fail",
    ).said
    assert said == [[0, 207001, 507000, 0], {"malloc@2:oom": 1, "malloc@3:fail": 1}]


@pytest.mark.parametrize(
    ("end", "fault", "sent", "received"),
    [
        ("sender", "send@1:fail", INTERNAL_ERROR, REMOTE_ERROR),
        ("sender", "send@1:drop", REMOTE_ERROR, REMOTE_ERROR),
        ("receiver", "recv@1:fail", REMOTE_ERROR, INTERNAL_ERROR),
        ("receiver", "recv@1:drop", REMOTE_ERROR, REMOTE_ERROR),
    ],
)
def test_failing_and_dropped_transfers(end, fault, sent, received):
    with meet(ONE_SEND, ONE_RECEIVE, **{f"{end}_environment": {"YR_FASTLOAD_SIM_FAULTS": fault}}) as (left, right):
        assert left.heard()[1] == sent
        assert right.heard()[1] == received


def test_a_fault_of_a_later_send_leaves_those_before_it():
    with meet(
        SEND + "told(); [ok(send(comm, a, 1000, s)) for _ in range(4)]; say(synchronize(s, 20000))",
        RECEIVE
        + "c = [buffer(1000) for _ in range(4)]; [ok(receive(comm, x, 1000, s)) for x in c]; say('posted'); "
        + "say([synchronize(s, 20000), [x.raw == pattern(1000, 1) for x in c]])",
        sender_environment={"YR_FASTLOAD_SIM_FAULTS": "send@3:fail"},
    ) as (left, right):
        left.tell(right.heard())  # a receive that is posted after the fault is refused at once
        assert left.finish().said == [INTERNAL_ERROR]
        assert right.finish().said == ["posted", [REMOTE_ERROR, [True, True, False, False]]]


def test_delayed_and_corrupted_receives():
    sent, received = pair(
        ONE_SEND,
        ONE_RECEIVE + "; say(sum(x != y for x, y in zip(b.raw, pattern(1000, 1))))",
        YR_FASTLOAD_SIM_FAULTS="send:delay_ms=150;recv:corrupt=5",
    )
    assert sent[0][0] > 0.14
    assert sent[0][1] == received[0][1] == 0
    assert received[1] == 5


def test_a_failing_communicator():
    said = run("set_device(); info = root_info(); say(initialise(info, 0)[0])", YR_FASTLOAD_SIM_FAULTS="comm:fail").said
    assert said == [4]


def test_a_freeze_lasts_until_the_control_file_says_no_more_of_it(tmp_path):
    control = tmp_path / "control"
    control.write_text("send:freeze\n")
    with meet(
        SEND + "ok(send(comm, a, 1000, s)); say(synchronize(s, 300)); say(synchronize(s, 20000))",
        RECEIVE + "ok(receive(comm, b, 1000, s)); ok(synchronize(s)); say(b.raw == pattern(1000, 1))",
        YR_FASTLOAD_SIM_CONTROL=control,
    ) as (left, right):
        assert left.heard() == 507046
        write(control, "recv:delay_ms=1\n")
        assert left.heard() == 0
        assert right.finish().said[-1]
        assert left.finish().said == [507046, 0]


@pytest.mark.parametrize(
    ("fault", "script", "error"),
    [
        ("send:freeze", SEND + "ok(send(comm, a, 1000, s))" + DESTROY_COMM, INTERNAL_ERROR),
        ("recv:freeze", RECEIVE + "ok(receive(comm, b, 1000, s, source=1))" + DESTROY_COMM, INTERNAL_ERROR),
        ("send:freeze", SEND + "ok(send(comm, a, 1000, s))" + DESTROY_STREAM, INVALID_HANDLE),
        ("send:freeze", SEND + "ok(send(comm, a, 1000, s))", TRANSFER_TIMEOUT),
        ("copy:freeze", SEND + "ok(copy_async(a, buffer(8), 8, s))", COPY_DATA),
    ],
)
def test_what_is_frozen_ends_with_its_comm_its_stream_or_its_timeout(fault, script, error):
    with meet(
        script + "; say(elapsed(synchronize, s))",
        "told()",
        HCCL_EXEC_TIMEOUT=1,
        sender_environment={"YR_FASTLOAD_SIM_FAULTS": fault},
    ) as (left, _):
        seconds, result = left.heard()
        assert result == error
        assert seconds < 4


def test_the_control_file_is_read_again_and_goes_on_counting(tmp_path):
    control = tmp_path / "control"
    write(control, "")
    script = """
set_device(); a, b = buffer(8, 1), buffer(8)
while True:
    told(); time.sleep(0.02); say([copy(b, a, 8), copy(b, a, 8)])
"""
    with start(script, YR_FASTLOAD_SIM_CONTROL=control) as child:

        def results():
            child.tell("go")
            return child.heard()

        assert results() == [0, 0]
        write(control, "copy@3:fail")
        assert results() == [0, 0]
        write(control, "copy@3:fail\nsend:fail")  # the first line stays, and has seen two copies
        assert results() == [COPY_DATA, 0]
        write(control, "copy:nonsense\ncopy@1:fail")
        assert results() == [COPY_DATA, 0]
        control.unlink()
        assert results() == [0, 0]
        child.process.stdin.close()
        child.process.wait(20)
    assert "'copy:nonsense' is no fault" in "".join(child._errors)


# 0.04 gigabits a second are 5 MB a second: 1 MB takes 0.2 s.
PACED = 0.04
MEGABYTE = 1_000_000
MANY_SENDS = f"""
s = stream(); a = buffer({MEGABYTE}, 1)
for _ in range({{count}}): ok(send(comm, a, {{size}}, s))
ok(synchronize(s))
"""
MANY_RECEIVES = f"""
s = stream(); b = buffer({MEGABYTE})
def receive_all():
    for _ in range({{count}}): ok(receive(comm, b, {{size}}, s))
    ok(synchronize(s))
say(elapsed(receive_all)[0])
say(b.raw[:{{size}}] == pattern({{size}}, 1))
"""


@pytest.mark.parametrize("limited", ["sender", "receiver"])
@pytest.mark.parametrize(("size", "count"), [(MEGABYTE, 1), (MEGABYTE // 50, 50)])
def test_the_slower_end_of_a_link_sets_its_pace(limited, size, count):
    with meet(
        MANY_SENDS.format(size=size, count=count),
        MANY_RECEIVES.format(size=size, count=count),
        **{f"{limited}_environment": {"YR_FASTLOAD_SIM_LINK_GBPS": PACED}},
        **{f"{'receiver' if limited == 'sender' else 'sender'}_environment": {"YR_FASTLOAD_SIM_LINK_GBPS": 10 * PACED}},
    ) as (left, right):
        seconds = right.heard()
        assert right.heard()
        left.finish()
    assert 0.19 < seconds < 1.9  # at the other end's pace, 0.02


def test_a_link_twice_as_fast_takes_half_as_long():
    seconds = []
    for gbps in (PACED, 4 * PACED):
        _, received = pair(
            MANY_SENDS.format(size=MEGABYTE, count=2),
            MANY_RECEIVES.format(size=MEGABYTE, count=2),
            YR_FASTLOAD_SIM_LINK_GBPS=gbps,
        )
        seconds.append(received[0])
    assert 2.5 < seconds[0] / seconds[1] < 5


def test_the_pace_of_a_link_can_change_during_a_transfer(tmp_path):
    control = tmp_path / "control"
    write(control, "link:gbps=0.001\n")  # eight seconds
    with meet(
        MANY_SENDS.format(size=MEGABYTE, count=1),
        "say(1)\n" + MANY_RECEIVES.format(size=MEGABYTE, count=1),
        receiver_environment={"YR_FASTLOAD_SIM_CONTROL": control},
    ) as (left, right):
        right.heard()
        write(control, "link:gbps=10\n")
        assert right.heard() < 4
        left.finish()


def test_the_set_up_of_a_communicator_takes_its_time():
    said = [
        run(
            """
import threading
set_device(); info = root_info()
def other(): set_device(1); initialise(info, 1)
thread = threading.Thread(target=other); thread.start()
say(elapsed(initialise, info, 0)[0]); thread.join()
say(counters()["comms"])
""",
            YR_FASTLOAD_SIM_COMM_SETUP_MS=wait,
        ).said
        for wait in (0, 300)
    ]
    assert said[0][0] < 0.29 < said[1][0]
    assert said[0][1] == said[1][1] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("YR_FASTLOAD_SIM_DEVICES", "0"),
        ("YR_FASTLOAD_SIM_DEVICES", "2.5"),
        ("YR_FASTLOAD_SIM_DEVICE_MEMORY_MB", "lots"),
        ("YR_FASTLOAD_SIM_LINK_GBPS", "-1"),
        ("YR_FASTLOAD_SIM_LINK_GBPS", "nan"),
        ("YR_FASTLOAD_SIM_COMM_SETUP_MS", "1s"),
        ("YR_FASTLOAD_SIM_TRACE", "yes"),
        ("YR_FASTLOAD_SIM_RENDEZVOUS", "somewhere"),
        ("HCCL_EXEC_TIMEOUT", "0"),
        ("HCCL_CONNECT_TIMEOUT", "x"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:explode"),
        ("YR_FASTLOAD_SIM_FAULTS", "paste:fail"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy@0:fail"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy@-1:fail"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy@x:fail"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:delay_ms"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:fail=1"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:delay_ms=soon"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:oom"),
        ("YR_FASTLOAD_SIM_FAULTS", "copy:drop"),
        ("YR_FASTLOAD_SIM_FAULTS", "send:corrupt=1"),
        ("YR_FASTLOAD_SIM_FAULTS", "link:fail"),
        ("YR_FASTLOAD_SIM_FAULTS", "send:gbps=1"),
    ],
)
def test_malformed_settings_are_named_and_nothing_works(name, value):
    found = run("say([acl.aclInit(None), acl.aclrtSetDevice(0)])", **{name: value})
    assert found.said == [[100000, 100000]]
    assert found.stderr.count("\n") == 1
    assert name in found.stderr
    assert value in found.stderr


def test_a_malformed_control_file_is_named_and_nothing_works(tmp_path):
    (tmp_path / "control").write_text("copy:fail\ncopy:\n")
    found = run("say(acl.aclInit(None))", YR_FASTLOAD_SIM_CONTROL=tmp_path / "control")
    assert found.said == [100000]
    assert found.stderr.count("\n") == 1
    assert "control: 'copy:' is no fault" in found.stderr


def test_initialising_twice_is_told():
    assert run("say([acl.aclInit(None), acl.aclInit(None), acl.aclFinalize()])").said == [[0, 100002, 0]]


def test_calls_are_counted_and_traced():
    found = run(
        """
set_device(); s = stream(); say(counters()); ok(acl.aclrtDestroyStream(s))
short = ctypes.create_string_buffer(b"x" * 8); read = acl.yrfl_sim_counters; read.restype = ctypes.c_size_t
say([read(short, ctypes.c_size_t(5)) > 100, short.raw[4:6].decode()])
""",
        YR_FASTLOAD_SIM_TRACE=1,
    )
    assert found.said[0] == {
        "calls": {"aclrtSetDevice": 1, "aclrtCreateStream": 1},
        "sent_bytes": {},
        "received_bytes": {},
        "streams": 1,
        "events": 0,
        "notifies": 0,
        "comms": 0,
        "device_bytes": {},
        "device_peak_bytes": {},
        "host_bytes": 0,
        "faults_hit": {},
        "memory_errors": {"double_free": 0, "unknown_free": 0, "use_after_free": 0, "out_of_bounds": 0},
    }
    assert found.said[1] == [True, "\0x"]
    assert found.stderr.splitlines() == [
        f"yr_fastload sim: {name}" for name in ("aclrtSetDevice", "aclrtCreateStream", "aclrtDestroyStream")
    ]
