"""Transfers between two processes, and the ways in which they end."""

import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .runtime import meet, pair, run, start

PARAMETER, INTERNAL, TIMEOUT, TCP_CONNECT, REMOTE = 1, 4, 9, 11, 21  # HcclResult
INTERNAL_ERROR, TRANSFER_TIMEOUT, REMOTE_ERROR = 507000, 507048, 507057  # aclError

SEND = "s = stream(); a = buffer({size}, 1); "
RECEIVE = "s = stream(); b = buffer({size}); "


def test_bytes_arrive_whatever_their_number():
    sizes = [1, 7, 4096, 70_001, 5 << 20]
    sent, received = pair(
        f"""
s = stream(); a = [buffer(size, i + 1) for i, size in enumerate({sizes})]
for x in a: ok(send(comm, x, len(x), s))
say([synchronize(s), async_error(comm), os.getpid(), counters()["sent_bytes"]])
say([hccl.HcclCommDestroy(comm), hccl.HcclCommDestroy(comm), counters()["comms"]])
""",
        f"""
s = stream(); b = [buffer(size) for size in {sizes}]
for x in b: ok(receive(comm, x, len(x), s))
say([synchronize(s), async_error(comm), os.getpid(), counters()["received_bytes"]])
say([x.raw == pattern(len(x), i + 1) for i, x in enumerate(b)])
""",
    )
    assert sent[0] == [0, 0, sent[0][2], {str(received[0][2]): sum(sizes)}]
    assert received[0] == [0, 0, received[0][2], {str(sent[0][2]): sum(sizes)}]
    assert received[1] == [True] * len(sizes)
    assert sent[1] == [0, PARAMETER, 0]


def test_both_directions_and_types_with_several_bytes():
    there, back = pair(
        """
s, t = stream(), stream(); a, b = buffer(4000, 1), buffer(4000)
ok(send(comm, a, 1000, s, INT32)); ok(receive(comm, b, 1000, t, INT32, source=1))
say([synchronize(t), synchronize(s), b.raw == pattern(4000, 2)])
""",
        """
s, t = stream(), stream(); a, b = buffer(4000, 2), buffer(4000)
ok(send(comm, a, 1000, s, INT32, to=0)); ok(receive(comm, b, 1000, t, INT32))
say([synchronize(t), synchronize(s), b.raw == pattern(4000, 1)])
""",
    )
    assert there == back == [[0, 0, True]]


def test_a_send_is_done_when_its_receiver_has_the_bytes():
    with meet(
        SEND.format(size=64) + "ok(send(comm, a, 64, s)); say(synchronize(s, 300)); say(synchronize(s))",
        RECEIVE.format(size=64)
        + "told(); ok(receive(comm, b, 64, s)); ok(synchronize(s)); say(b.raw == pattern(64, 1))",
    ) as (left, right):
        assert left.heard() == 507046
        right.tell("now")
        assert right.finish().said == [True]
        assert left.finish().said == [507046, 0]


def test_a_receive_waits_its_turn_behind_other_tasks():
    _, received = pair(
        SEND.format(size=64) + "ok(send(comm, a, 64, s)); ok(synchronize(s))",
        RECEIVE.format(size=64)
        + """
c = buffer(64, 9); d = buffer(64)
ok(copy_async(b, c, 64, s)); ok(receive(comm, b, 64, s)); ok(copy_async(d, b, 64, s)); ok(synchronize(s))
say([b.raw == pattern(64, 1), d.raw == pattern(64, 1)])
""",
    )
    assert received == [[True, True]]


def test_a_send_waits_its_turn_behind_other_tasks():
    _, received = pair(
        SEND.format(size=64)
        + "c = buffer(64, 9); ok(copy_async(a, c, 64, s)); ok(send(comm, a, 64, s)); ok(synchronize(s))",
        RECEIVE.format(size=64) + "ok(receive(comm, b, 64, s)); ok(synchronize(s)); say(b.raw == pattern(64, 9))",
        YR_FASTLOAD_SIM_FAULTS="copy@1:delay_ms=200",
    )
    assert received == [True]


def test_calls_are_matched_in_order_whatever_their_streams():
    _, received = pair(
        """
s, t = stream(), stream(); a = [buffer(1000, i) for i in range(6)]
for i, x in enumerate(a): ok(send(comm, x, 1000, s if i % 2 else t))
ok(synchronize(s)); ok(synchronize(t))
""",
        """
s, t = stream(), stream(); b = [buffer(1000) for _ in range(6)]
for i, x in enumerate(b): ok(receive(comm, x, 1000, s if i < 3 else t))
ok(synchronize(s)); ok(synchronize(t))
say([x.raw == pattern(1000, i) for i, x in enumerate(b)])
""",
    )
    assert received == [[True] * 6]


def test_two_ranks_in_one_process():
    said = run("""
import threading
set_device(); info = root_info(); made = {}
def other():
    set_device(1); made[1] = initialise(info, 1)
thread = threading.Thread(target=other); thread.start()
made[0] = initialise(info, 0); thread.join()
s, t = stream(), stream(); a, b = buffer(5000, 1), buffer(5000)
ok(send(made[0][1], a, 5000, s)); ok(receive(made[1][1], b, 5000, t))
say([synchronize(t, 10000), synchronize(s, 10000), a.raw == b.raw])
""").said
    assert said == [[0, 0, True]]


@pytest.mark.parametrize(
    ("sender", "receiver"),
    [("64, s", "65, s"), ("64, s, INT8", "64, s, 7"), ("64, s, INT8", "16, s, INT32")],
)
def test_a_mismatch_is_an_error_at_both_ends(sender, receiver):
    sent, received = pair(
        SEND.format(size=256) + f"ok(send(comm, a, {sender})); say([synchronize(s, 10000), async_error(comm)])",
        RECEIVE.format(size=256)
        + f"ok(receive(comm, b, {receiver})); say([synchronize(s, 10000), async_error(comm), b.raw == bytes(256)])",
    )
    assert sent == [[INTERNAL_ERROR, PARAMETER]]
    assert received == [[INTERNAL_ERROR, PARAMETER, True]]


@pytest.mark.parametrize("died", ["sender", "receiver"])
def test_a_dead_peer_is_an_error_at_once(died):
    with meet(
        SEND.format(size=64) + "ok(send(comm, a, 64, s)); say(1); say(elapsed(synchronize, s)); say(async_error(comm))"
        if died == "receiver"
        else "say(1); told()",
        RECEIVE.format(size=64)
        + "ok(receive(comm, b, 64, s)); say(1); say(elapsed(synchronize, s)); say(async_error(comm))"
        if died == "sender"
        else "say(1); told()",
    ) as (left, right):
        lives, dies = (left, right) if died == "receiver" else (right, left)
        assert left.heard() == right.heard() == 1
        dies.kill()
        seconds, error = lives.heard()
        assert error == REMOTE_ERROR
        assert seconds < 5
        assert lives.heard() == REMOTE


def test_a_peer_that_dies_in_the_middle_of_a_transfer():
    with meet(
        SEND.format(size=4 << 20) + "ok(send(comm, a, 4 << 20, s)); say(1); told()",
        RECEIVE.format(size=4 << 20) + "ok(receive(comm, b, 4 << 20, s)); say(elapsed(synchronize, s))",
        YR_FASTLOAD_SIM_LINK_GBPS="0.01",
    ) as (left, right):
        left.heard()
        left.kill()
        seconds, error = right.heard()
        assert error == REMOTE_ERROR
        assert seconds < 3  # the link takes longer


@pytest.mark.parametrize("frozen", ["sender", "receiver"])
def test_a_frozen_peer_is_an_error_after_the_timeout(frozen):
    waits = "; say(1); told(); say(elapsed(synchronize, s)); say(async_error(comm))"
    with meet(
        SEND.format(size=64) + ("ok(send(comm, a, 64, s))" + waits if frozen == "receiver" else "say(1); told()"),
        RECEIVE.format(size=64) + ("ok(receive(comm, b, 64, s))" + waits if frozen == "sender" else "say(1); told()"),
        HCCL_EXEC_TIMEOUT=1,
    ) as (left, right):
        waits, freezes = (left, right) if frozen == "receiver" else (right, left)
        assert left.heard() == right.heard() == 1
        os.kill(freezes.process.pid, signal.SIGSTOP)
        waits.tell("go")
        seconds, error = waits.heard()
        assert error == TRANSFER_TIMEOUT
        assert seconds < 5
        assert waits.heard() == TIMEOUT


def test_destroying_a_comm_ends_its_transfers_at_both_ends():
    with meet(
        SEND.format(size=64) + "say(1); told(); ok(send(comm, a, 64, s)); say(synchronize(s, 10000))",
        """
import threading
s = stream(); b = buffer(64); ok(receive(comm, b, 64, s)); found = []
thread = threading.Thread(target=lambda: found.append(elapsed(synchronize, s))); thread.start()
time.sleep(0.2)
say(elapsed(hccl.HcclCommDestroy, comm)); thread.join(); say(found[0])
say([receive(comm, b, 64, s), acl.aclrtDestroyStream(s)])
""",
    ) as (left, right):
        left.heard()
        found = right.finish().said
        left.tell("go")
        assert left.finish().said[1] == REMOTE_ERROR
    assert found[0][1] == 0
    assert found[0][0] < 5
    assert found[1][1] == INTERNAL_ERROR
    assert found[2] == [PARAMETER, 0]


def test_destroying_a_comm_in_the_middle_of_a_transfer():
    sent, received = pair(
        SEND.format(size=4 << 20) + "ok(send(comm, a, 4 << 20, s)); say(synchronize(s, 20000))",
        RECEIVE.format(size=4 << 20)
        + """
ok(receive(comm, b, 4 << 20, s)); say(synchronize(s, 300))
say(elapsed(hccl.HcclCommDestroy, comm)[0] < 2); say(synchronize(s, 2000))
""",
        YR_FASTLOAD_SIM_LINK_GBPS="0.01",
    )
    assert sent == [REMOTE_ERROR]
    assert received == [507046, True, INTERNAL_ERROR]


def test_a_stream_destroyed_by_force_takes_its_comm_along():
    sent, received = pair(
        SEND.format(size=64)
        + "ok(send(comm, a, 64, s)); ok(send(comm, a, 64, s)); "
        + "say(elapsed(acl.aclrtDestroyStreamForce, s)[0] < 5); say(async_error(comm))",
        RECEIVE.format(size=64) + "time.sleep(0.3); ok(receive(comm, b, 64, s)); say(synchronize(s, 20000))",
    )
    assert sent == [True, INTERNAL]
    assert received == [REMOTE_ERROR]


def test_memory_that_is_freed_during_a_send():
    with meet(
        "s = stream(); a = malloc(64); ok(send(comm, a, 64, s)); time.sleep(0.2); ok(acl.aclrtFree(a)); say(1);"
        "say(synchronize(s, 20000)); say(counters()['memory_errors']['use_after_free'])",
        RECEIVE.format(size=64) + "told(); ok(receive(comm, b, 64, s)); say(synchronize(s, 20000))",
    ) as (left, right):
        left.heard()
        right.tell("go")
        right.finish()
        found = left.finish()
    assert found.said == [1, INTERNAL_ERROR, 1]
    assert "were freed while a send used them" in found.stderr


@pytest.mark.parametrize("call", ["send(comm, a, 64, s)", "receive(comm, a, 64, s, source=1)"])
def test_transfers_of_freed_memory_fail(call):
    sent, received = pair(
        f"s = stream(); a = malloc(64); ok(acl.aclrtFree(a)); ok({call}); say(synchronize(s, 20000))",
        "s = stream(); b = buffer(64); "
        + (
            "ok(receive(comm, b, 64, s))"
            if call.startswith("send")
            else "ok(hccl.HcclSend(b, ctypes.c_uint64(64), INT8, 0, comm, s))"
        )
        + "; say(synchronize(s, 20000))",
    )
    assert sent == [INTERNAL_ERROR]
    assert received[0] in (INTERNAL_ERROR, REMOTE_ERROR)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("send(comm, a, 64, s, to=0)", PARAMETER),
        ("receive(comm, a, 64, s, source=0)", PARAMETER),
        ("send(comm, a, 64, s, kind=12)", PARAMETER),
        ("send(comm, a, 64, s, kind=-1)", PARAMETER),
        ("send(comm, None, 64, s)", 2),
        ("send(None, a, 64, s)", 2),
        ("send(comm, a, 64, None)", 2),
        ("send(comm, a, 1 << 62, s, INT32)", PARAMETER),
        ("send(ctypes.c_void_p(77), a, 64, s)", PARAMETER),
        ("send(comm, a, 0, s)", 0),
    ],
)
def test_wrong_arguments_are_refused_and_break_nothing(call, error):
    sent, received = pair(
        SEND.format(size=64) + f"say({call}); ok(send(comm, a, 64, s)); say(synchronize(s, 20000))",
        RECEIVE.format(size=64) + "ok(receive(comm, b, 64, s)); say(synchronize(s, 20000))",
    )
    assert sent == [error, 0]
    assert received == [0]


def test_a_rendezvous_that_nobody_comes_to_ends_at_its_timeout():
    said = run(
        "set_device(); info = root_info(); say(elapsed(lambda: initialise(info, 0)[0]))", HCCL_CONNECT_TIMEOUT=1
    ).said
    seconds, error = said[0]
    assert error == TIMEOUT
    assert 0.9 < seconds < 5


def test_a_rendezvous_whose_process_is_gone():
    name = run("set_device(); say(root_info().raw.rstrip(b'\\0').decode())").said[0]
    said = run(f"""
set_device(); info = ctypes.create_string_buffer({name!r}.encode(), 4108)
say(elapsed(lambda: initialise(info, 1)[0]))
""").said
    seconds, error = said[0]
    assert error == TCP_CONNECT
    assert seconds < 5


def test_a_rendezvous_in_a_directory():
    with TemporaryDirectory(prefix="yrfl-", dir="/tmp") as directory:  # short: it is part of a socket's name
        shared = {"YR_FASTLOAD_SIM_RENDEZVOUS": directory}
        with (
            start(
                "set_device(); info = root_info(); say(info.raw.rstrip(b'\\0').decode()); say(initialise(info, 0)[0])",
                **shared,
            ) as a,
            start(
                "set_device(); info = ctypes.create_string_buffer(told().encode(), 4108); say(initialise(info, 1)[0])",
                **shared,
            ) as b,
        ):
            name = a.heard()
            assert Path(name).parent == Path(directory)
            b.tell(name)
            assert b.finish().said == [0]
            assert a.finish().said[1:] == [0]
        assert not list(Path(directory).iterdir())


def test_two_ends_of_one_rank_do_not_meet():
    with (
        start(
            "set_device(); info = root_info(); say(info.raw.rstrip(b'\\0').decode()); say(initialise(info, 1)[0])"
        ) as a,
        start(
            "set_device(); info = ctypes.create_string_buffer(told().encode(), 4108); say(initialise(info, 1)[0])"
        ) as b,
    ):
        b.tell(a.heard())
        assert b.finish().said == [PARAMETER]
        assert a.finish().said[1:] == [PARAMETER]


def test_strangers_at_the_rendezvous_are_turned_away():
    said = run("""
import socket, threading
set_device(); info = root_info(); name = b"\\0" + info.raw.rstrip(b"\\0")
stranger = socket.socket(socket.AF_UNIX); stranger.connect(name); stranger.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
hasty = socket.socket(socket.AF_UNIX); hasty.connect(name); hasty.close()
made = {}
def other(): set_device(1); made[1] = initialise(info, 1)[0]
thread = threading.Thread(target=other); thread.start()
made[0] = initialise(info, 0)[0]; thread.join()
say([made[0], made[1]])
""").said
    assert said == [[0, 0]]


@pytest.mark.parametrize("arguments", ["3, info, 0", "2, info, 2", "1, info, 0", "2, bytes(4108), 0"])
def test_communicators_are_of_two_ranks(arguments):
    said = run(f"""
set_device(); info = root_info()
say(hccl.HcclCommInitRootInfoConfig({arguments}, bytes(256), ctypes.byref(ctypes.c_void_p())))
say(hccl.HcclCommInitRootInfo({arguments}, ctypes.byref(ctypes.c_void_p())))
""").said
    assert said == [PARAMETER, PARAMETER]


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="the filter knows these processors' calls")
def test_bytes_go_through_the_socket_where_memory_may_not_be_read():
    size = 300_001
    sent, received = pair(
        SEND.format(size=size)
        + f"ok(send(comm, a, {size}, s)); ok(send(comm, a, 5, s)); "
        + "say([synchronize(s), list(counters()['sent_bytes'].values())])",
        RECEIVE.format(size=size)
        + f"""
refuse_reading_memory()
s = stream(); c = buffer(5)
ok(receive(comm, b, {size}, s)); ok(receive(comm, c, 5, s))
say([synchronize(s), b.raw == pattern({size}, 1), c.raw == pattern(5, 1)])
""",
    )
    assert sent == [[0, [size + 5]]]
    assert received == [[0, True, True]]


def test_the_process_ends_with_a_live_comm_and_pending_transfers():
    with meet(
        SEND.format(size=64) + "[ok(send(comm, a, 64, s)) for _ in range(5)]; say(True)",
        RECEIVE.format(size=64) + "told(); [receive(comm, b, 64, s) for _ in range(5)]; say(True)",
    ) as (left, right):
        left_result = left.finish()
        right.tell("go")
        right_result = right.finish()
    assert left_result.said == right_result.said[-1:] == [True]
    assert left_result.stderr == right_result.stderr == ""
