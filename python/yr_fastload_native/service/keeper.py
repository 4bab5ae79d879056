"""Runs a command and leaves no process of it behind, whether the command ends or its owner ends or is killed.

    python -I keeper.py DIRECTORY GRACE_S COMMAND...

``DIRECTORY`` is where psutil is: with -I, which ignores the current directory and Python's variables, packages that
were installed with ``pip --user`` or ``--target`` are not found.

Stdin is the line to the owner: when it closes, or on SIGTERM, the command is asked to end, and killed ``GRACE_S``
seconds later. Everything that the command started and left behind becomes a child of this process, however it was
started (PR_SET_CHILD_SUBREAPER), and is killed when the command has ended. The exceptions are an openYuanrong worker
that others may use and its watcher, which ends the worker after its last user. Exits with the command's status, or 128
+ n if signal n ended it.

There are two processes. The first only represents the second: owners that kill their children when they end, as Ray's
workers do, kill the first one, and the second is then asked to end and shuts down in order.

It imports nothing from the package, so that it starts at once and stays small.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import signal
import subprocess
import sys
import time

sys.path.append(sys.argv.pop(1))

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_KILL_S = 10.0  # for killed processes to disappear; one in a system call ends when that returns
_WATCHER = "/yr_fastload_native/worker/watcher.py"
_TIDY_S = 3.0  # of these, for processes that clean up after the others
_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stand_for(keeper: int) -> int:
    """Forward signals until the keeper has ended; returns its status."""
    for number in _TO_END:
        signal.signal(number, lambda *_: os.kill(keeper, signal.SIGTERM))
    return _status(os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]))


def _status(exit_code: int) -> int:
    return exit_code if exit_code >= 0 else 128 - exit_code


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


def _tidies(process: psutil.Process) -> bool:
    """Whether it is Python's resource tracker, which removes the others' shared memory and ends after them."""
    return any("multiprocessing.resource_tracker" in part for part in process.cmdline())


class Keeper:
    """One command and everything it starts. ``stands`` is the process that represents this one."""

    def __init__(self, command: list[str], grace_s: float, stands: int) -> None:
        self._grace_s = grace_s
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._asked = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _TO_END:
            signal.signal(number, self._ask)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # when the representing process dies
        if os.getppid() != stands:
            self._asked = True
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self._command = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    def _ask(self, *_: object) -> None:
        self._asked = True

    def run(self) -> int:
        """Wait for the command to end, or end it; returns its status."""
        deadline = None
        while self._command.poll() is None:
            if self._asked and deadline is None:
                deadline = time.monotonic() + self._grace_s
                self._command.terminate()
            if deadline is not None and time.monotonic() > deadline:
                self._command.kill()
            readers = [self._wake] if self._asked else [self._wake, 0]
            ready, _, _ = select.select(readers, [], [], None if deadline is None else 0.1)
            if self._wake in ready:
                os.read(self._wake, 4096)
            if 0 in ready and not os.read(0, 4096):
                self._asked = True
        self._kill_the_rest()
        return _status(self._command.returncode)

    @staticmethod
    def _kill_the_rest() -> None:
        deadline = time.monotonic() + _KILL_S
        while time.monotonic() < deadline:
            children = psutil.Process().children(recursive=True)
            shared = _shared(children)
            rest = [process for process in children if process.pid not in shared]
            if not rest:
                return
            late = deadline - time.monotonic() < _KILL_S - _TIDY_S
            for process in rest:
                try:
                    if not late and _tidies(process):
                        continue
                    process.kill()
                    os.waitpid(process.pid, os.WNOHANG)
                except (psutil.NoSuchProcess, ChildProcessError):
                    pass  # gone, or the child of a process that is about to go
            time.sleep(0.02)


if __name__ == "__main__":
    stands = os.getpid()
    child = os.fork()
    sys.exit(_stand_for(child) if child else Keeper(sys.argv[2:], float(sys.argv[1]), stands).run())
