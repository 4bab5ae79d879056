"""The processes of a home: finding them, what they serve, ending them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from yr_fastload_native.errors import UnavailableError
from yr_fastload_native.worker.watcher import start_ticks

__all__ = ["flags", "kill_strays", "start_ticks", "strays"]

_KILL_S = 60.0  # the kernel needs a while to free a pool of hundreds of GiB


def strays(ready: Path) -> list[psutil.Process]:
    """This user's processes of one home, including dscli, found by the ready file that dscli passes to the worker."""
    flag, value = "--ready_check_path", str(ready)
    found = []
    for process in psutil.process_iter(["uids", "cmdline"]):
        arguments = process.info["cmdline"] or []
        ours = process.info["uids"] is not None and process.info["uids"].real == os.getuid()
        if ours and (f"{flag}={value}" in arguments or (flag in arguments and value in arguments)):
            found.append(process)
    return found


def flags(process: psutil.Process) -> dict[str, str]:
    """The flags that a worker was started with; empty for any other process, dscli included."""
    arguments = process.info["cmdline"] or [""]
    if Path(arguments[0]).name != "datasystem_worker":
        return {}
    pairs = (argument.removeprefix("--").partition("=") for argument in arguments[1:])
    return {name: value for name, _, value in pairs}


def kill_strays(ready: Path) -> None:
    """Kill what a failed or interrupted start left behind in a home."""
    while found := strays(ready):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        _, alive = psutil.wait_procs(found, timeout=_KILL_S)
        if alive:
            raise UnavailableError(f"worker pid {alive[0].pid} survived SIGKILL; see its kernel stack", op="worker")
