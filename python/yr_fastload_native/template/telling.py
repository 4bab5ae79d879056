"""What processes of a server tell whoever started it, for the next template: what they have imported when it is ready.

Beside the file of reports lies a FIFO. Threads wait in the kernel for it to be opened, which the other end does when
the server answers; then each process writes a file of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.template.fitness import OWN_THREADS
from yr_fastload_native.template.imports import importable

__all__ = ["Told", "ask", "collect", "make_room", "remove", "tell", "tell_when_ready"]

_READY, _TOLD = ".ready", ".told"
_numbers = itertools.count()
_waiting = 0  # pid of the process that already waits


@attrs.frozen
class Told:
    """What the processes of a server told.

    Attributes:
        modules: That any of them has imported, in the order in which they came.
        variables: That had another value when a process was to be forked from one that had imported without it.
    """

    modules: tuple[str, ...] = ()
    variables: dict[str, str | None] = attrs.field(factory=dict)


# -- in a server's processes ---------------------------------------------------------------------------------------


def tell_when_ready(report: str) -> None:
    """Tell the modules of this process once somebody asks, if anybody is going to.

    Args:
        report: Path of the file of reports; empty: there is none.
    """
    global _waiting
    fifo = f"{report}{_READY}"
    if not report or _waiting == os.getpid() or not _is_fifo(fifo):
        return
    _waiting = os.getpid()

    def wait() -> None:
        with contextlib.suppress(OSError):  # whoever asks has gone
            os.close(os.open(fifo, os.O_RDONLY))
            tell(report, {"modules": importable()})

    threading.Thread(target=wait, name=OWN_THREADS, daemon=True).start()


def tell(report: str, what: dict[str, Any]) -> None:
    """Write a file for whoever started the server, if there is room for it."""
    if not report:
        return
    path = Path(f"{report}{_TOLD}.{os.getpid()}.{next(_numbers)}")
    new = path.with_name(f"new{path.name}")
    with contextlib.suppress(OSError):  # the server goes on without, and so does the next one
        new.touch(mode=0o600)
        new.write_text(json.dumps(what))
        new.replace(path)


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


# -- at the other end ----------------------------------------------------------------------------------------------


def make_room(report: Path) -> None:
    """For a server that is about to start."""
    remove(report)
    os.mkfifo(f"{report}{_READY}", mode=0o600)


def ask(report: Path) -> None:
    """Have its processes tell what they have imported by now; returns at once."""
    with contextlib.suppress(OSError):  # nobody waits
        os.close(os.open(f"{report}{_READY}", os.O_WRONLY | os.O_NONBLOCK))


def collect(report: Path) -> Told | None:
    """What was told since this was called last; None: nothing."""
    modules: dict[str, None] = {}
    variables: dict[str, str | None] = {}
    files = sorted(report.parent.glob(f"{report.name}{_TOLD}.*"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        what = json.loads(path.read_text())
        path.unlink()
        modules.update(dict.fromkeys(what.get("modules", ())))
        variables.update(what.get("variables", {}))
    return Told(tuple(modules), variables) if files else None


def remove(report: Path) -> None:
    """What is left of it."""
    for path in report.parent.glob(f"*{report.name}.*"):
        path.unlink(missing_ok=True)
