"""What tests have a template fork in the place of a server: it tells what it is, and what its children are."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any


def open_files() -> set[str]:
    """What is open beside the standard streams."""
    found = set()
    for each in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory itself
            found.add(os.readlink(f"/proc/self/fd/{each}") if int(each) > 2 else os.devnull)
    return found


def facts() -> dict[str, Any]:
    marked = sys.modules.get("marked")
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "stdin": os.readlink("/proc/self/fd/0"),
        "open": sorted(open_files()),
        "random": random.random(),
        "key": bytes(multiprocessing.current_process().authkey).hex(),
        "sigterm": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "marked": None if marked is None else marked.PID,
    }


def child(pipe: Any, status: int) -> None:
    pipe.send(facts())
    pipe.close()
    sys.exit(status)


def spawned(status: int) -> dict[str, Any]:
    """A child that multiprocessing spawns: what it said, and how it ended."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    other = os.open(__file__, os.O_RDONLY)  # that it is not to have
    signal.signal(signal.SIGTERM, lambda *_: None)
    process = context.Process(target=child, args=(its, status))
    process.start()
    its.close()
    said = mine.recv()
    process.join(30)
    os.close(other)
    return {**said, "status": process.exitcode}


def main() -> None:
    told, mode = Path(sys.argv[1]), sys.argv[2]
    said: dict[str, Any] = facts()
    if mode == "spawn":
        said["child"] = spawned(5)
    if mode == "spawn with another value":
        os.environ["MARKED"] = "another"
        said["child"] = spawned(6)
    if mode == "learn":
        import wave  # noqa: F401

        from yr_fastload_native.template.telling import tell_when_ready

        tell_when_ready(os.environ["YR_FASTLOAD_REPORT"])
    sys.stdout.write("it says this\n")
    sys.stdout.flush()
    new = told.with_suffix(".new")
    new.write_text(json.dumps(said))
    new.replace(told)
    if mode == "end":
        sys.exit(7)
    time.sleep(600)


if __name__ == "__main__":
    main()
