"""Processes with simulated devices that publish and load: what the tests of `d2d` and `staged` are made of.

Their tensors are in opaque device memory, as on real devices. Tests of what only torch's tensors do (they are read
straight into, are given other memory, count writes) set `STAND_INS`: torch's CPU tensors count as the device's then.
Torch is imported once, by a process that they are forked from.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from yr_fastload_native.measuring.child_process import Process
from yr_fastload_native.measuring.fork_server import ForkServer

ANSWER_S = 150
# Whoever was forked may wait for ever for the allocator of AddressSanitizer.
_FORKS = "san" not in os.environ.get("LD_PRELOAD", "")
_servers = {}  # by kind of devices, and what else they have imported
_AHEAD = ("torch", "attrs", "ml_dtypes", "msgspec", "psutil")

STAND_INS = {"YR_FASTLOAD_SIM_OPAQUE": "0"}


class Node:
    """A process; `call(name, ...)` runs a function of `node_commands.Commands` in it."""

    def __init__(self, worker, directory, name, device=0, kind="ascend", **environment):
        self.name = name
        self.control = Path(directory) / f"{name}.control"
        self.control.write_text("")
        settings = {
            "YR_FASTLOAD_SIM_OPAQUE": "1",
            "YR_FASTLOAD_SIM_CONTROL": str(self.control),
            "NODE_WORKER": worker,
            "NODE_DEVICE": str(device),
            **environment,
        }
        self.process = Process(
            "test", "node_commands", name, None, simulated(kind) | settings, server=_server(kind, settings)
        )

    def start(self, name, **arguments):
        self._what, self._asked = name, time.monotonic()
        self.process.start(name, **arguments)

    def finish(self, timeout_s=ANSWER_S):
        answer = self.process.finish(timeout_s)
        took_s = time.monotonic() - self._asked
        sys.stdout.write(f"{self.name}: {self._what} {took_s:.1f} s {answer}\n")  # shown where a test fails
        return answer

    def call(self, name, **arguments):
        self.start(name, **arguments)
        return self.finish()

    def faults(self, *lines):
        temporary = self.control.with_suffix(".new")
        temporary.write_text("\n".join(lines))
        temporary.rename(self.control)
        time.sleep(0.05)

    def kill(self, number=signal.SIGKILL):
        """Send a signal, unless it has ended."""
        self.process.signal(number)

    def close(self):
        self.process.kill()
        self.process.close()


def simulated(kind="ascend"):
    """The environment with simulated devices, and without what is set for this process."""
    from yr_fastload_native import sim

    base = {key: value for key, value in os.environ.items() if not key.startswith(("YR_FASTLOAD_", "HCCL_"))}
    return sim.environment(base, kind=kind)


def _server(kind, settings):
    """What a process with these settings is forked from; None for those that may not be."""
    # torch_npu reads settings of its own when it is imported.
    npu = {key: value for key, value in settings.items() if key == "NODE_TORCH_NPU" or key.startswith("PYTORCH_")}
    key = (kind, *npu.items())
    if _FORKS and key not in _servers:
        _servers[key] = ForkServer(
            [*_AHEAD, *(["torch_npu_path"] if "NODE_TORCH_NPU" in npu else [])], simulated(kind) | npu
        )
    return _servers.get(key)


def close_server():
    while _servers:
        _servers.popitem()[1].close()
