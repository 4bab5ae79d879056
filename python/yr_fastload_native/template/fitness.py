"""Whether a process may fork others that go on as if they had just been started."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

__all__ = ["OWN_THREADS", "threads", "unfit"]

OWN_THREADS = "yrfl-modules"  # name of those that wait in the kernel, and hold nothing meanwhile
_DEVICES = ("cuda", "npu", "xpu")
# Of ZeroMQ, whose contexts a child does not use, and of jemalloc, which has handlers for forks.
_HARMLESS = ("ZMQbg/", "jemalloc_bg_thd")
_SETTLED_S = 1.0  # for a thread that was joined to leave the kernel's list, and for one that has begun to take its name
_LOOK_S = 0.01


def unfit() -> str | None:
    """Why a process that only has imported modules cannot be forked; None: it can."""
    others = threads()
    if others:
        return f"threads run in it: {', '.join(others)}"
    torch = sys.modules.get("torch")
    for kind in _DEVICES if torch is not None else ():
        is_initialized = getattr(getattr(torch, kind, None), "is_initialized", None)
        if is_initialized is not None and is_initialized():
            return f"torch.{kind} is initialised in it"
    ours = sys.modules.get("yr_fastload_native.process.at_exit")
    if ours is not None and ours.anything_open():
        return "it is connected to openYuanrong"
    return None


def threads() -> list[str]:
    """Threads of this process that a fork would lose, native ones too, by the names that the kernel has for them.

    Libraries that know of forks, such as OpenBLAS, end theirs before one, and start them again when they need them: so
    where there are any, a child is forked that ends at once, and what is left after a second is counted.
    """
    found = _others()
    if found:
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
    ends = time.monotonic() + _SETTLED_S
    while found and time.monotonic() < ends:
        time.sleep(_LOOK_S)
        found = _others()
    return found


def _others() -> list[str]:
    own = {thread.native_id for thread in threading.enumerate() if thread.name == OWN_THREADS}
    found = []
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) == os.getpid() or int(task.name) in own:
            continue
        try:
            name = (task / "comm").read_text().strip()
        except OSError:  # it has ended
            continue
        if not name.startswith(_HARMLESS):
            found.append(name)
    return sorted(found)
