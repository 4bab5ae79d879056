"""Runs a command, and leaves nobody of it behind: not when it ends, nor when whoever asked for it ends or is killed.

    python -I keeper.py DIRECTORY GRACE_S COMMAND...

``DIRECTORY`` is where psutil is: with -I, which keeps the current directory and variables of Python away, nothing is
found that was installed by ``pip --user`` or ``--target``.

Stdin is the line to whoever asked: its end, or SIGTERM, asks the command to end, and ``GRACE_S`` seconds later kills
it. Everything that the command started and left behind becomes a child of this process, however it was started
(PR_SET_CHILD_SUBREAPER), and is killed when the command has ended; but for a worker that others may use, and who
watches it: that one ends it after its last user. Exits with the command's status, 128 + n for a command that signal n
ended.

It is two processes. The first only stands for the second, so that who kills his children when he goes, as Ray's workers
do, kills that one: the other is asked to end by it, and ends in order.

It imports nothing of the package: it has to be there at once, and to stay small.
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
_KILL_S = 10.0  # for killed processes to be gone: one in the kernel ends when that lets it
_WATCHER = "/yr_fastload_native/worker/watcher.py"
_TIDY_S = 3.0  # of these, for what tidies up after the others
_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stand_for(keeper: int) -> int:
    """Pass on what this process is told, until the keeper has ended; its status."""
    for number in _TO_END:
        signal.signal(number, lambda *_: os.kill(keeper, signal.SIGTERM))
    return _status(os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1]))


def _status(exit_code: int) -> int:
    return exit_code if exit_code >= 0 else 128 - exit_code


def _shared(processes: list[psutil.Process]) -> set[int]:
    """Workers that others may use, and who watches them, by the arguments of worker/watcher.py."""
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
    """Whether it is Python's resource tracker: it ends once all others have, and removes their shared memory first."""
    return any("multiprocessing.resource_tracker" in part for part in process.cmdline())


class Keeper:
    """One command, and all that comes of it. ``stands`` is the process that stands for this one."""

    def __init__(self, command: list[str], grace_s: float, stands: int) -> None:
        self._grace_s = grace_s
        self._wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._asked = False
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in _TO_END:
            signal.signal(number, self._ask)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # of what stands for it
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
        """Wait for the command's end, or bring it about; its status."""
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
                    pass  # gone, or the child of another that is about to go
            time.sleep(0.02)


if __name__ == "__main__":
    stands = os.getpid()
    child = os.fork()
    sys.exit(_stand_for(child) if child else Keeper(sys.argv[2:], float(sys.argv[1]), stands).run())
