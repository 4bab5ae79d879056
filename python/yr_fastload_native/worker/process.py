"""Processes by pid and start time: whether one still runs, how it is ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil

from yr_fastload_native.errors import UnavailableError

__all__ = ["end", "kill_strays", "start_ticks", "strays"]

_KILL_S = 60.0  # giving back a pool of hundreds of GiB takes the kernel a while


def start_ticks(pid: int) -> int | None:
    """Start of a live process in clock ticks since boot, None if it is gone; a zombie is.

    Source: proc_pid_stat(5): fields 3 (state), 20 (threads) and 22 (start time).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, threads, ticks = fields[0], int(fields[17]), int(fields[19])
    # The first thread is a zombie while the others still hold the ports.
    return None if state in "ZX" and threads <= 1 else ticks


def end(pid: int, started: int, *, grace_s: float) -> None:
    """End this process and wait until it is gone: by SIGTERM if it has ``grace_s`` seconds, then by SIGKILL."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S)):
        if not patience_s:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if start_ticks(pid) != started:
                return
            time.sleep(0.02)
    raise UnavailableError(f"worker pid {pid} outlives SIGKILL; see its kernel stack", op="worker stop")


def strays(ready: Path) -> list[psutil.Process]:
    """Our processes of one home, found by the ready file that dscli hands to the worker; dscli itself included."""
    flag, value = "--ready_check_path", str(ready)
    found = []
    for process in psutil.process_iter(["uids", "cmdline"]):
        arguments = process.info["cmdline"] or []
        ours = process.info["uids"] is not None and process.info["uids"].real == os.getuid()
        if ours and (f"{flag}={value}" in arguments or (flag in arguments and value in arguments)):
            found.append(process)
    return found


def kill_strays(ready: Path) -> None:
    """Kill what a failed or interrupted start of a home left: no state file names it."""
    while found := strays(ready):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(found, timeout=_KILL_S)
        if alive:
            raise UnavailableError(f"worker pid {alive[0].pid} outlives SIGKILL; see its kernel stack", op="worker")
