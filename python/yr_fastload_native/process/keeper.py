"""Runs a command and leaves no process of it behind, whether the command ends or its owner ends or is killed.

    python -I keeper.py DIRECTORY run GRACE_S COMMAND...
    python -I keeper.py DIRECTORY host GRACE_S COMMAND...
    python -I keeper.py DIRECTORY adopt GRACE_S PID

``DIRECTORY`` is where psutil is: with -I, which ignores the current directory and Python's variables, packages that
were installed with ``pip --user`` or ``--target`` are not found.

Stdin is the line to the owner: when it closes, or on SIGTERM, the command is asked to end, and killed ``GRACE_S``
seconds later. Everything that the command started and left behind becomes a child of this process, however it was
started (PR_SET_CHILD_SUBREAPER), and is killed when the command has ended. The exceptions are an openYuanrong worker
that others may use and its watcher, which ends the worker after its last user. Exits with the command's status, or 128
+ n if signal n ended it.

``run`` is two processes. The first only represents the second: owners that kill their children when they end, as Ray's
workers do, kill the first one, and the second is then asked to end and shuts down in order.

``adopt`` keeps a child that this process had before it became a keeper, which a template forked. Its line is a socket,
on which it also reports the status, because the process that asked is not its parent.

``host`` keeps a template, whose keepers of the kind ``adopt`` become its children. They end through their own lines,
and it stays as long as there are any. What a killed one of them leaves behind is killed at once.

It imports nothing from the package, so that it starts at once and stays small.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import subprocess
import sys
import time

if __name__ == "__main__":
    sys.path.append(sys.argv.pop(1))

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_KILL_S = 10.0  # for killed processes to disappear; one in a system call ends when that returns
_WATCHER = "/yr_fastload_native/worker/watcher.py"
_TIDY_S = 3.0  # of these, for processes that clean up after the others
_LOOK_S = 0.1
_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NAME = "yrfl-keeper"  # of the process, by which a host knows those that adopt


def die_with_parent() -> None:
    """SIGKILL for this process when the one that has started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def become_keeper() -> None:
    """Have this process be known for one, and what is left behind below it become its child. Outlasts `exec`."""
    take_name(NAME)
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def take_name(name: str) -> None:
    """What the kernel calls this process, at most 15 characters. Until it calls `exec`."""
    _LIBC.prctl(_PR_SET_NAME, name.encode())


def _stand_for(keeper: int) -> int:
    """Forward signals until the keeper has ended; returns its status."""
    for number in _TO_END:
        signal.signal(number, lambda *_: os.kill(keeper, signal.SIGTERM))
    return _status(os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]))


def _status(exit_code: int) -> int:
    return exit_code if exit_code >= 0 else 128 - exit_code


def _with_what_is_below(processes: list[psutil.Process]) -> set[int]:
    found = {process.pid for process in processes}
    for process in processes:
        try:
            found.update(each.pid for each in process.children(recursive=True))
        except psutil.Error:
            continue
    return found


def _shared(processes: list[psutil.Process]) -> set[int]:
    """Workers that others may use, and their watchers, found by the arguments of worker/watcher.py."""
    found: set[int] = set()
    for process in processes:
        try:
            arguments = process.cmdline()
        except psutil.Error:
            continue
        for script, pid in itertools.pairwise(arguments):
            if script.endswith(_WATCHER) and pid.isdecimal():
                found |= {process.pid, int(pid)}
    return found


def _is_keeper(process: psutil.Process) -> bool:
    """Whether it adopts, or is about to: it has the name before and after it calls `exec`, and in between these.

    While the kernel is at that, it has no arguments at all.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        arguments = process.cmdline()
        adopts = arguments[2:3] == [__file__] and arguments[4:5] == ["adopt"]
        return bool(process.name() == NAME or adopts or not arguments)
    except psutil.Error:
        return False


def _tidies(process: psutil.Process) -> bool:
    """Whether it is Python's resource tracker, which removes the others' shared memory and ends after them."""
    try:
        return any("multiprocessing.resource_tracker" in part for part in process.cmdline())
    except psutil.Error:
        return False


class Child:
    """A child that this process already had, with what a keeper needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)  # as long as nobody has waited for it, it is nobody else's

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Keeper:
    """One command and everything it starts.

    Args:
        grace_s: From being asked to end to being killed, seconds.
        parent: Ends with it; None: by its line alone.
        hosts: Whether keepers may become children of this process.
    """

    def __init__(self, grace_s: float, parent: int | None, *, hosts: bool = False) -> None:
        self._grace_s = grace_s
        self._hosts = hosts
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._asked = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _TO_END:
            signal.signal(number, self._ask)
        if parent is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            self._asked = os.getppid() != parent
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def _ask(self, *_: object) -> None:
        self._asked = True

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start the command to keep."""
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent)

    def run(self, command: subprocess.Popen[bytes] | Child) -> int:
        """Wait for the command to end, or end it; returns its status."""
        deadline = None
        while command.poll() is None:
            if self._asked and deadline is None:
                deadline = time.monotonic() + self._grace_s
                command.terminate()
            if deadline is not None and time.monotonic() > deadline:
                command.kill()
            if self._hosts:
                self._kill(self._rest(but=[psutil.Process(command.pid)]))
            self._wait(None if deadline is None else _LOOK_S)
        self._kill_the_rest()
        while self._hosts and any(map(_is_keeper, psutil.Process().children())):
            self._wait(None)
            self._kill_the_rest()
        assert command.returncode is not None
        return _status(command.returncode)

    def _wait(self, timeout_s: float | None) -> None:
        """Until something has happened."""
        readers = [self._wake] if self._asked else [self._wake, 0]
        ready, _, _ = select.select(readers, [], [], timeout_s)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if 0 in ready and not os.read(0, 4096):
            self._asked = True

    def _kill_the_rest(self) -> None:
        deadline = time.monotonic() + _KILL_S
        while time.monotonic() < deadline and (rest := self._rest()):
            late = deadline - time.monotonic() < _KILL_S - _TIDY_S
            self._kill([process for process in rest if late or not _tidies(process)])
            time.sleep(0.02)

    def _rest(self, but: list[psutil.Process] | None = None) -> list[psutil.Process]:
        """What is below this process and has to go."""
        below = psutil.Process().children(recursive=True)
        stay = [*(but or []), *(filter(_is_keeper, below) if self._hosts else [])]
        stays = _with_what_is_below(stay) | _shared(below)
        return [process for process in below if process.pid not in stays]

    @staticmethod
    def _kill(processes: list[psutil.Process]) -> None:
        for process in processes:
            try:
                process.kill()
                os.waitpid(process.pid, os.WNOHANG)
            except (psutil.NoSuchProcess, ChildProcessError):
                pass  # gone, or the child of another that is about to go


def _main(kind: str, grace_s: float, arguments: list[str]) -> int:
    if kind == "adopt":
        become_keeper()
        status = Keeper(grace_s, None).run(Child(int(arguments[0])))
        with contextlib.suppress(OSError):  # nobody asks any more
            os.write(0, bytes([status]))
        return status
    stands = os.getpid()
    child = os.fork()
    if child:
        return _stand_for(child)
    keeper = Keeper(grace_s, stands, hosts=kind == "host")
    return keeper.run(keeper.start(arguments))


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
