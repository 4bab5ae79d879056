"""SIGTERM runs what has to be run first, wherever the main thread is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

START = """
import ctypes, os, signal, sys, threading, time
from yr_fastload_native.process.sigterm import before_sigterm
before_sigterm(lambda: print("withdrawn", flush=True))
"""
# Native code that waits without a look at signals: for a mutex that it holds itself.
NATIVE = """
threading.Timer(0.2, print, ["ready"], {"flush": True}).start()
mutex = ctypes.create_string_buffer(256)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
PYTHON = "print('ready', flush=True); time.sleep(60)"


def start(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", START + code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("code", [PYTHON, NATIVE], ids=["python", "native"])
def test_it_runs_first_and_the_process_ends_as_it_would_have(code: str) -> None:
    with start(code) as process:
        started = time.monotonic()
        process.terminate()
        assert process.communicate(timeout=20)[0] == "withdrawn\n"
        assert process.returncode == -signal.SIGTERM
        assert time.monotonic() - started < 10


def test_a_second_one_ends_it_at_once() -> None:
    code = "import yr_fastload_native.process.sigterm as t\nt._acts.append(lambda: time.sleep(60))\n" + PYTHON
    with start(code) as process:
        process.terminate()
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        process.wait(10)
        assert process.returncode == -signal.SIGTERM


def test_a_handler_of_the_program_is_left_alone() -> None:
    code = """
def mine(number, frame):
    print("mine", flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, mine)
before_sigterm(lambda: print("never"))
print("ready", flush=True); time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", START.rpartition("\nbefore_sigterm")[0] + code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.communicate(timeout=20)[0] == "mine\n"
        assert process.returncode == 3


def test_a_signal_to_a_child_does_not_end_its_parent() -> None:
    code = """
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
time.sleep(0.3)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
time.sleep(0.3)
print("child", os.WTERMSIG(status), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, text=True, timeout=30, check=False
    )
    assert done.stdout == f"withdrawn\nchild {int(signal.SIGTERM)}\n"
    assert done.returncode == 0


def test_an_event_loop_keeps_its_wakeup() -> None:
    code = """
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    got = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, got.set)
    print("ready", flush=True)
    await got.wait()
    print("usr1", flush=True)
asyncio.run(main())
os._exit(0)
"""
    with start(code) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.communicate(timeout=20)[0] == "usr1\n"
