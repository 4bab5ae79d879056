"""The template itself: `python -m yr_fastload_native.template.process TASK`.

It imports, listens, and forks what it is asked for, one after the other. It says why it does not where imports would
come out otherwise by now, and ends where it is of no use any more.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.settings import ExchangeConfig
from yr_fastload_native.template import birth, lines, telling
from yr_fastload_native.template.birth import Birth
from yr_fastload_native.template.environment import ImportedWith, noted_reads
from yr_fastload_native.template.fitness import unfit
from yr_fastload_native.template.imports import ImportedFiles, import_all

__all__ = ["Task", "main"]

_BACKLOG = 64
_REQUEST_S = 5.0  # for the rest of a request that has begun to come
_DESCRIPTORS = 8


@attrs.frozen
class Task:
    """What a template is to do.

    Attributes:
        socket: Path where it listens, once it has imported.
        imports: Modules, in this order.
        ordered: Of variables that it was given and servers are not, what servers have; None: nothing.
    """

    socket: str
    imports: list[str]
    ordered: dict[str, str | None]

    def write(self, path: Path) -> None:
        path.touch(mode=0o600)
        path.write_text(json.dumps(attrs.asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Task:
        return cls(**json.loads(path.read_text()))


class Template:
    """A process that has imported, and may be forked."""

    def __init__(self, task: Task) -> None:
        self._task = task
        before = dict(os.environ)
        started = time.monotonic()
        with noted_reads() as reads:
            import_all(task.imports)
        self.seconds = time.monotonic() - started
        self.imported = ImportedWith(frozenset(reads), before, dict(os.environ), task.ordered)
        self.files = ImportedFiles()

    def serve(self) -> Birth | None:
        """Fork servers until this is one; None: it is of no use any more."""
        gc.collect()
        gc.disable()  # what it writes to is no longer shared
        gc.freeze()
        with socket.socket(socket.AF_UNIX) as listener:
            new = f"{self._task.socket}.new"
            listener.bind(new)
            listener.listen(_BACKLOG)
            os.rename(new, self._task.socket)
            while True:
                line, _ = listener.accept()
                with line:
                    born, useless = self._answer(line)
                if born is not None or useless:
                    return born

    def _answer(self, line: socket.socket) -> tuple[Birth | None, bool]:
        """One request: what this process is to be, and whether it is of no use any more."""
        line.settimeout(_REQUEST_S)
        descriptors: list[int] = []
        try:
            asked, descriptors = lines.receive_first(line, _DESCRIPTORS)
            if "arguments" not in asked:
                lines.send(line, self._facts())
                return None, False
            useless = self._useless()
            why = useless or self._refusal(asked["environment"])
            if why is not None:
                lines.send(line, {"error": why, "ends": useless is not None})
                return None, useless is not None
            log, *kept = descriptors
            wanted = Birth(asked["arguments"], asked["environment"], asked["keeper"], log, kept)
            return (wanted if birth.fork_keeper(line, wanted) else None), False
        except (OSError, ValueError, KeyError) as error:
            with contextlib.suppress(OSError):  # whoever asked has gone
                lines.send(line, {"error": f"cannot fork: {error}"})
            return None, False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _useless(self) -> str | None:
        changed = self.files.changed()
        return unfit() if changed is None else f"{changed} has changed since it was imported"

    def _refusal(self, environ: dict[str, str]) -> str | None:
        differing = self.imported.differing(environ)
        return f"the environment differs by {', '.join(differing)}" if differing else None

    def _facts(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "seconds": self.seconds, "modules": self.files.count}


def main() -> str | None:
    """Be a template, and then a server; why it cannot be one."""
    template = Template(Task.read(Path(sys.argv[1])))
    why = unfit()
    if why is not None:
        return why
    wanted = template.serve()
    if wanted is None:
        return "it was of no use any more"
    imported = template.imported
    report = ExchangeConfig.report_from_env(wanted.environment)
    birth.run(
        wanted,
        imported,
        report=lambda what: telling.tell(report, what),
        begin=lambda: telling.tell_when_ready(report),
    )
    return None


if __name__ == "__main__":
    sys.exit(main())
