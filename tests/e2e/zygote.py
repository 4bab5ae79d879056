"""A process that has imported vLLM, and forks whoever needs it: the import is most of what a small model takes.

It takes a role with three descriptors at a time from the socket whose number it was given, and answers with the number
of the process that has them. A child speaks to the test as one of ``yr_fastload_native.measuring.child_process`` does.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import sys

import forked
import in_turn
import load_only

from yr_fastload_native.measuring.child_process import main
from yr_fastload_native.measuring.vllm_process import instance

ROLES = {"instance": instance, "forked": forked.instance_of_forks, "rank": load_only.rank, "loads": in_turn.loads}


def preload() -> None:
    import vllm
    from vllm.model_executor.models import registry

    vllm.LLM  # noqa: B018 - imports what it is made of
    # Otherwise it imports vLLM once more for each architecture, to keep CUDA out of a process that forks.
    registry._run_in_subprocess = lambda function: function()
    gc.freeze()  # no child looks through it
    assert "yr_fastload_native._core" not in sys.modules, "openYuanrong's threads would not be in a child"


def serve(asked: socket.socket) -> None:
    """Fork until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        role, streams, _, _ = socket.recv_fds(asked, 64, 3)
        if not role:
            return
        child = os.fork()
        if child == 0:
            asked.close()
            live(role.decode(), streams)
        for stream in streams:
            os.close(stream)
        asked.send(str(child).encode())


def live(role: str, streams: list[int]) -> None:
    """Be the child, as if it had been started with these streams."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    atexit.register(os._exit, 0)  # after all that it registers: to take apart what was imported takes seconds
    sys.argv[1:] = [role]
    main(ROLES)
    sys.exit()


if __name__ == "__main__":
    preload()
    serve(socket.socket(fileno=int(sys.argv[1])))
