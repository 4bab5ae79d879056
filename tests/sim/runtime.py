"""Drives the simulated runtime through ctypes, as openYuanrong's plugin does through its linker.

Tests use `run`, `start` and `pair`; the scripts that these start see everything below them, and `say` what they found.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

TIMEOUT_S = 60
_PRELUDE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from runtime import *\n"


class Child:
    """A process with simulated devices that runs a script."""

    def __init__(self, script, environment, kind="ascend"):
        from yr_fastload_native import sim

        base = {key: value for key, value in os.environ.items() if not key.startswith(("YR_FASTLOAD_", "HCCL_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=sim.environment(base, kind=kind)
            | {"YR_FASTLOAD_SIM_OPAQUE": "1"}
            | {key: str(value) for key, value in environment.items()},
        )
        self.said = []
        self._lines = queue.Queue()
        self._errors = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._lines.put), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._errors.append), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, take):
        for line in stream:
            take(line)

    def heard(self):
        """The next thing that the script says."""
        try:
            self.said.append(json.loads(self._lines.get(timeout=TIMEOUT_S)))
        except queue.Empty:
            raise AssertionError(f"silent; stderr: {''.join(self._errors)}") from None
        return self.said[-1]

    def tell(self, value):
        """What the script's next `told()` returns."""
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def finish(self, code=0):
        """What the script said, and its stderr."""
        try:
            self.process.stdin.close()
            self.process.wait(TIMEOUT_S)
        finally:
            self.kill()
        for reader in self._readers:
            reader.join(TIMEOUT_S)
        while not self._lines.empty():
            self.said.append(json.loads(self._lines.get()))
        stderr = "".join(self._errors)
        self.stderr = stderr
        assert code is None or self.process.returncode == code, (self.process.returncode, stderr)
        return SimpleNamespace(said=self.said, stderr=stderr, code=self.process.returncode)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT_S)
        self.process.stdin.close()


@contextmanager
def start(script, *, kind="ascend", **environment):
    """A child that does not outlive the block."""
    child = Child(script, environment, kind)
    try:
        yield child
    finally:
        child.kill()
        for reader in child._readers:
            reader.join(TIMEOUT_S)
        child.process.stdout.close()
        child.process.stderr.close()


def run(script, code=0, *, kind="ascend", **environment):
    """What a script said; `code` None takes any exit status."""
    with start(script, kind=kind, **environment) as child:
        return child.finish(code)


def assert_calls(counted, file):
    """Compare counts of the driver's calls with those that a file of this folder holds."""
    assert counted == json.loads(file.read_text()), (
        f"where that is meant, {file.name} is to hold\n{json.dumps(counted, indent=2)}"
    )


@contextmanager
def meet(sender, receiver, sender_environment=None, receiver_environment=None, **environment):
    """Two children that have a `comm`: `sender` is rank 0, `receiver` rank 1."""
    with (
        start("comm = join(0)\n" + sender, **environment, **(sender_environment or {})) as left,
        start("comm = join(1)\n" + receiver, **environment, **(receiver_environment or {})) as right,
    ):
        right.tell(left.heard())
        left.said.clear()
        yield left, right


def pair(sender, receiver, **environment):
    """What two children that have a `comm` said."""
    with meet(sender, receiver, **environment) as (left, right):
        return left.finish().said, right.finish().said


# What scripts use.

INT8, INT32 = 0, 2
H2D, D2D = 1, 3


class _Lazy:
    """Loads a library when a function of it is first called: the tests' own process has none."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, function):
        return getattr(ctypes.CDLL(self._name), function)


acl, hccl, rt = _Lazy("libascendcl.so"), _Lazy("libhccl.so"), _Lazy("libruntime.so")


def say(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def told():
    return json.loads(sys.stdin.readline())


def ok(result):
    if result != 0:
        raise AssertionError(f"failed with {result}")


def set_device(device=0):
    ok(acl.aclrtSetDevice(device))


def _made(function, *arguments):
    handle = ctypes.c_void_p()
    ok(function(*arguments, ctypes.byref(handle)))
    return handle


def stream():
    return _made(acl.aclrtCreateStream)


def framework_stream():
    return _made(lambda handle: acl.aclrtCreateStreamWithConfig(handle, 0, 0))


def event():
    return _made(acl.aclrtCreateEvent)


def notify(device=0):
    return _made(rt.rtNotifyCreate, device)


def malloc(size):
    pointer = ctypes.c_void_p()
    ok(acl.aclrtMalloc(ctypes.byref(pointer), ctypes.c_size_t(size), 0))
    return pointer


def copy_async(to, source, size, on, room=None):
    room = size if room is None else room
    return acl.aclrtMemcpyAsync(to, ctypes.c_size_t(room), source, ctypes.c_size_t(size), D2D, on)


def copy(to, source, size, room=None):
    room = size if room is None else room
    return acl.aclrtMemcpy(to, ctypes.c_size_t(room), source, ctypes.c_size_t(size), D2D)


def synchronize(on, timeout_ms=None):
    if timeout_ms is None:
        return acl.aclrtSynchronizeStream(on)
    return acl.aclrtSynchronizeStreamWithTimeout(on, timeout_ms)


def send(comm, data, size, on, kind=INT8, to=1):
    return hccl.HcclSend(data, ctypes.c_uint64(size), kind, to, comm, on)


def receive(comm, data, size, on, kind=INT8, source=0):
    return hccl.HcclRecv(data, ctypes.c_uint64(size), kind, source, comm, on)


def root_info():
    info = ctypes.create_string_buffer(4108)
    ok(hccl.HcclGetRootInfo(info))
    return info


def initialise(info, rank):
    """The result, and the communicator."""
    handle = ctypes.c_void_p()
    config = ctypes.create_string_buffer(256)
    return hccl.HcclCommInitRootInfoConfig(2, info, rank, config, ctypes.byref(handle)), handle


def join(rank):
    """Rank 0 says the root info, rank 1 is told it."""
    set_device(rank)
    if rank == 0:
        info = root_info()
        say(info.raw.rstrip(b"\0").decode())
    else:
        info = ctypes.create_string_buffer(told().encode(), 4108)
    result, handle = initialise(info, rank)
    ok(result)
    return handle


def async_error(comm):
    error = ctypes.c_int(-1)
    ok(hccl.HcclGetCommAsyncError(comm, ctypes.byref(error)))
    return error.value


def pattern(size, seed=1):
    """Bytes of which each 251st is the same, so that a shift shows."""
    unit = bytes((seed + i) % 251 for i in range(251))
    return (unit * (size // 251 + 1))[:size]


def buffer(size, seed=None):
    return ctypes.create_string_buffer(b"" if seed is None else pattern(size, seed), size)


def counters():
    read = acl.yrfl_sim_counters
    read.restype = ctypes.c_size_t
    size = read(None, ctypes.c_size_t(0)) + 4096
    text = ctypes.create_string_buffer(size)
    read(text, ctypes.c_size_t(size))
    return json.loads(text.value)


def elapsed(function, *arguments):
    """Seconds, and the result."""
    begun = time.monotonic()
    result = function(*arguments)
    return time.monotonic() - begun, result


def context(kind=8, source=None, to=None, size=0, successors=(), predecessors=0):
    """A context of an FFTS+ task."""
    made = bytearray(128)
    address = lambda data: ctypes.addressof(data) if data is not None else 0  # noqa: E731
    made[0:2] = kind.to_bytes(2, "little")
    made[2] = len(successors)
    made[6] = made[7] = predecessors
    for i, successor in enumerate(successors):
        made[12 + 2 * i : 14 + 2 * i] = successor.to_bytes(2, "little")
    made[88:96] = address(source).to_bytes(8, "little")
    made[100:108] = address(to).to_bytes(8, "little")
    made[112:116] = size.to_bytes(4, "little")
    return made


def launch(contexts, on, ready, total=None, kind=4):
    """Launches an FFTS+ task, and overwrites the caller's buffer at once, as openYuanrong does."""
    sqe = bytearray(64)
    sqe[8:10] = kind.to_bytes(2, "little")
    sqe[24:26] = (len(contexts) if total is None else total).to_bytes(2, "little")
    sqe[26:28] = ready.to_bytes(2, "little")
    sqe = ctypes.create_string_buffer(bytes(sqe), 64)
    description = ctypes.create_string_buffer(b"".join(contexts), 128 * len(contexts))
    task = (ctypes.c_uint64 * 8)(ctypes.addressof(sqe), ctypes.addressof(description), 128 * len(contexts))
    inputs = (ctypes.c_uint64 * 2)(ctypes.addressof(task), on.value)
    result = rt.rtGeneralCtrl(inputs, 2, 3)
    ctypes.memset(description, 0xFF, 128 * len(contexts))
    return result


def refuse_reading_memory():
    """Makes process_vm_readv fail with EPERM in this process, as a sandbox does."""
    numbers = {"x86_64": 310, "aarch64": 270}
    libc = ctypes.CDLL(None, use_errno=True)
    load, equal, answer = 0x20, 0x15, 0x06
    program = (ctypes.c_uint64 * 4)(
        load,
        equal | 1 << 16 | numbers[os.uname().machine] << 32,
        answer | 0x7FFF0000 << 32,
        answer | (0x00050000 | 1) << 32,
    )
    filters = (ctypes.c_uint64 * 2)(4, ctypes.addressof(program))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filters, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
