"""A full, absent or frozen worker: typed errors, nothing written, nobody kept waiting."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import yr_fastload_native as fl
from yr_fastload_native import _core

from ..waiting import wait_until

pytestmark = pytest.mark.worker


def weights(value: int = 1) -> dict[str, np.ndarray]:
    return {"a.weight": np.full((64, 32), value, np.float32), "a.bias": np.full(64, value, np.float32)}


def untouched(target: dict[str, Any]) -> bool:
    return all((np.asarray(tensor) == 9).all() for tensor in target.values())


def test_names_that_keys_could_not_hold(loader: fl.FastLoader, other_loader: fl.FastLoader) -> None:
    identity = {"model": "org/Model-1.5.B/ümläut ✓ " + "x" * 300, "path": "/a/b.c"}
    source = {"layers.0/attn.q_proj.wéight ✓" * 5: np.arange(5)}
    target = {name: np.zeros(5, np.int64) for name in source}
    loader.publish(source, identity)
    other_loader.load(target, identity)
    assert (next(iter(target.values())) == np.arange(5)).all()


def test_no_worker() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(fl.UnavailableError, match="worker start") as caught:
            fl.FastLoader(fl.Config(worker=address, connect_timeout_s=1))
    assert address in str(caught.value)
    assert time.monotonic() - started < 6


def test_a_worker_that_stops_between_publish_and_load(own_worker: fl.LocalWorker, identity: dict[str, str]) -> None:
    bounds = fl.Config(worker=own_worker.address, rpc_timeout_s=1)
    with fl.FastLoader(bounds) as publisher, fl.FastLoader(bounds) as reader:
        publication = publisher.publish(weights(), identity)
        own_worker.stop(force=True)
        target = weights(9)
        started = time.monotonic()
        with pytest.raises((fl.UnavailableError, fl.TransferTimeoutError)):
            reader.load(target, identity, deadline_s=3)
        assert time.monotonic() - started < 4
        assert untouched(target)
        publication.close()  # bounded, and does not raise


def time_to_connect_again() -> float:
    """CPU seconds that openYuanrong's threads of this process have spent on it."""
    threads = psutil.Process().threads()
    names = {thread.id: Path(f"/proc/self/task/{thread.id}/comm") for thread in threads}
    connect = {number for number, comm in names.items() if comm.exists() and "ZmqHandleConn" in comm.read_text()}
    assert connect
    return sum(thread.user_time + thread.system_time for thread in threads if thread.id in connect)


def test_a_worker_that_is_away_costs_its_clients_no_core(own_worker: fl.LocalWorker) -> None:
    """openYuanrong's own thread looks at the clock without a pause: 0.7 of a core."""
    with fl.FastLoader(fl.Config(worker=own_worker.address, rpc_timeout_s=1)) as loader:
        own_worker.stop(force=True)
        for _ in range(2):  # each connects again
            with pytest.raises((fl.UnavailableError, fl.TransferTimeoutError)):
                loader.load(weights(9), {"model": "none"}, deadline_s=1)
        time.sleep(1)
        before = time_to_connect_again()
        time.sleep(2)
        assert time_to_connect_again() - before < 0.2


@contextmanager
def frozen(pid: int) -> Any:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_worker_keeps_nobody(own_worker: fl.LocalWorker, short_tmp: Any, identity: dict[str, str]) -> None:
    status = fl.LocalWorker.status(short_tmp)
    assert status is not None
    reader = fl.FastLoader(fl.Config(worker=own_worker.address, rpc_timeout_s=30))
    publisher = fl.FastLoader(fl.Config(worker=own_worker.address, rpc_timeout_s=30, publish_deadline_s=1))
    publisher.publish(weights(), identity)
    reader.load(weights(9), identity)
    with frozen(status.pid):
        target = weights(9)
        started = time.monotonic()
        with pytest.raises(fl.TransferTimeoutError):
            reader.load(target, identity, deadline_s=1)
        assert time.monotonic() - started < 2
        assert untouched(target)
        started = time.monotonic()
        with pytest.raises(fl.TransferTimeoutError):
            publisher.publish(weights(2), identity)
        assert time.monotonic() - started < 2, "also what was begun is taken back within that second"
        started = time.monotonic()
        reader.close()
        publisher.close()
        assert time.monotonic() - started < 15
        started = time.monotonic()
        with pytest.raises(fl.UnavailableError):
            fl.FastLoader(fl.Config(worker=own_worker.address, connect_timeout_s=1))
        assert time.monotonic() - started < 6
    gc.collect()  # tracebacks of the errors above still hold the connections
    assert wait_until(lambda: _core.threads_left_behind() == 0, 40), (
        "calls that were left behind end once the worker goes on"
    )


def test_too_much_left_behind_is_refused(own_worker: fl.LocalWorker, short_tmp: Any) -> None:
    """In a process of its own, which has dozens of connections."""
    code = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import yr_fastload_native as fl
from yr_fastload_native import _core
config = fl.Config(worker=sys.argv[1], transport="host", rpc_timeout_s=1)
with ThreadPoolExecutor(_core.MOST_THREADS_LEFT_BEHIND) as pool:
    loaders = list(pool.map(lambda _: fl.FastLoader(config), range(_core.MOST_THREADS_LEFT_BEHIND)))
    os.kill(int(sys.argv[2]), signal.SIGSTOP)
    list(pool.map(fl.FastLoader.close, loaders))
print(_core.threads_left_behind(), flush=True)
try:
    fl.FastLoader(config)
except fl.ResourceExhaustedError as error:
    print(error, flush=True)
os._exit(0)
"""
    status = fl.LocalWorker.status(short_tmp)
    assert status is not None
    command = [sys.executable, "-c", code, own_worker.address, str(status.pid)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    finally:
        os.kill(status.pid, signal.SIGCONT)
    left, error = done.stdout.splitlines()
    assert int(left) == _core.MOST_THREADS_LEFT_BEHIND
    assert error.startswith(f"connect: {left} threads and 0 connections of this process still wait")


def test_a_pool_too_small_publishes_nothing(own_worker: fl.LocalWorker, identity: dict[str, str]) -> None:
    bounds = fl.Config(worker=own_worker.address, rpc_timeout_s=1, chunk_bytes=8 << 20)
    with fl.FastLoader(bounds) as loader:
        with pytest.raises(fl.ResourceExhaustedError, match="no room for 805306368 bytes"):
            loader.publish({"w": np.zeros(768 << 20, np.uint8)}, identity)
        with pytest.raises(fl.NotPublishedError):
            loader.load({"w": np.zeros(768 << 20, np.uint8)}, identity)
        # What it had reserved is free again.
        loader.publish({"w": np.ones(300 << 20, np.uint8)}, identity)


def test_a_fork_is_told(loader: fl.FastLoader, identity: dict[str, str]) -> None:
    loader.publish(weights(), identity)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            loader.load(weights(9), identity)
            text = "loaded"
        except fl.FastLoadError as error:
            text = f"{error.code} {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        assert pipe.read().startswith("INVALID_ARGUMENT")
    assert status == 0


def test_rounds_leak_nothing(config: fl.Config, identity: dict[str, str]) -> None:
    process = psutil.Process()

    def one_round() -> None:
        with fl.FastLoader(config) as loader:
            loader.publish(weights(), identity)
            loader.load(weights(9), identity)

    for _ in range(3):
        one_round()
    before = process.num_threads(), process.num_fds()
    for _ in range(8):
        one_round()
    after = process.num_threads(), process.num_fds()
    assert after[0] <= before[0] + 2, (before, after)
    assert after[1] <= before[1] + 4, (before, after)


def test_ctrl_c_ends_a_transfer(worker: str, identity: dict[str, str]) -> None:
    import subprocess

    script = f"""
import os, signal, threading, time, numpy as np, yr_fastload_native as fl
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
with fl.FastLoader(fl.Config(worker={worker!r}, copy_threads=1)) as loader:
    tensors = {{"w": np.zeros(1 << 30, np.uint8)}}
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        loader.publish(tensors, {identity!r})
        print("published")
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "interrupted\n"
