"""What the processes of test_child_process.py do: ``python -m tests.unit.children ROLE``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from yr_fastload_native.errors import FastLoadError
from yr_fastload_native.measuring.child_process import Parent, main, serve


def _echo(task: Any, parent: Parent) -> None:
    print("noise of a library")  # noqa: T201
    parent.send("ready", task=task, pid=os.getpid(), value=os.environ.get("VALUE"))
    while (message := parent.wait()) is not None:
        parent.send_progress(1, 2)
        parent.send("echo", message=message)


def _fail(code: str, parent: Parent) -> None:
    classes = {error.code: error for error in FastLoadError.__subclasses__()}
    raise classes[code]("it failed", op="load")


def _die(number: int, parent: Parent) -> None:
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), number)


def _leave_one_behind(_: Any, parent: Parent) -> None:
    """A process that lives on, with all that it inherits."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    parent.send("started", pid=child.pid)
    parent.wait()
    os._exit(3)


class Commands:
    def __init__(self, task: Any) -> None:
        self._task = task

    def add(self, number: int) -> dict[str, int]:
        return {"sum": self._task + number}

    def sleep(self, seconds: float) -> dict[str, int]:
        time.sleep(seconds)
        return {}

    def raise_one(self) -> dict[str, int]:
        raise RuntimeError("as it was told")


if __name__ == "__main__":
    if sys.argv[1] == "commands":
        serve(Commands)
    else:
        main({"echo": _echo, "fail": _fail, "die": _die, "leaves one behind": _leave_one_behind})
