"""Network namespaces of test beds: whether there can be any, and what killed runs have left of them.

Nothing of them can be seen from outside, and all of them are named after the process that made them: what one that was
killed has left is found by that name and removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

__all__ = ["COMMAND_S", "GONE_S", "PREFIX", "clean_up", "end", "namespaces", "run", "why_no_etcd", "why_not"]

PREFIX = "yrflh"
GONE_S = 20.0
COMMAND_S = 60.0


def run(*command: str, timeout_s: float = COMMAND_S, environment: Mapping[str, str] | None = None) -> str:
    """What a command printed; by default with the environment of this process.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def why_not() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid():
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"there is no `{missing[0]}`: install Debian's packages iproute2 and util-linux"
    name = f"{PREFIX}-{os.getpid()}-try"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "del", name)
    except RuntimeError as error:
        return f"no network namespace can be made: {error}"
    return ""


def why_no_etcd() -> str:
    """Why there can be no etcd here; empty if there can."""
    return "" if shutil.which("etcd") else "there is no `etcd`: install Debian's package etcd-server"


def namespaces() -> list[str]:
    """All of tests."""
    listed = json.loads(run("ip", "-j", "netns", "list") or "[]")
    return [each["name"] for each in listed if each["name"].startswith(f"{PREFIX}-")]


def end(namespace: str) -> None:
    """Kill what runs in a namespace, and remove it."""
    found = []
    for pid in run("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(int(pid)))
            found[-1].kill()
    psutil.wait_procs(found, timeout=GONE_S)
    run("ip", "netns", "del", namespace)


def clean_up() -> None:
    """Remove what processes of tests that have ended left behind."""
    for name in namespaces():
        owner = re.match(rf"{PREFIX}-(\d+)-", name)
        if owner and not psutil.pid_exists(int(owner[1])):
            end(name)
    for directory in Path("/tmp").glob(f"{PREFIX}-*"):
        owner = re.match(rf"{PREFIX}-(\d+)-", directory.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            shutil.rmtree(directory, ignore_errors=True)
