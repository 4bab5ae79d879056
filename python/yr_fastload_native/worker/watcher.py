"""Stops the worker once its last user is gone, however it went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["watch"]

# SIGKILL of the last user leaves nobody else to do so. A bare interpreter until then; forked, so that it is nobody's
# child to reap.
_WATCHER = """
import fcntl, os, sys
os.fork() and os._exit(0)
users, packages, home = sys.argv[1:]
while True:
    with open(users) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
    sys.path.insert(0, packages)
    from yr_fastload_native.worker import LocalWorker
    LocalWorker(home=home, start_timeout_s=3600).stop()
    status = LocalWorker.status(home)
    if status is None or status.keep:
        break
"""


def watch(home: Path, users: Path) -> None:
    """Leave a process behind that stops the worker of ``home`` once nobody holds the lock file ``users``."""
    packages = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", _WATCHER, str(users), str(packages), str(home)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        check=True,
    )
