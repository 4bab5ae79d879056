"""What a template should import, and with which variables, as servers told it; kept for the next service."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

import attrs

from yr_fastload_native.settings import Config
from yr_fastload_native.template.telling import Told

__all__ = ["Learned"]

_MOST_BYTES = 4 << 20


@attrs.frozen
class Learned:
    """What is known.

    Attributes:
        modules: To import, in this order.
        variables: That have another value in the processes of a server than it was started with; None: they lack it.
    """

    modules: tuple[str, ...]
    variables: dict[str, str | None] = attrs.field(factory=dict)

    @classmethod
    def remembered(cls, guess: tuple[str, ...]) -> Learned:
        """What servers of this Python told last; a guess where none has."""
        path = _path()
        try:
            if path is None or not _is_own(path) or path.stat().st_size > _MOST_BYTES:
                return cls(guess)
            found = json.loads(path.read_text())
            modules, variables = found["modules"], found["variables"]
            if not all(isinstance(each, str) for each in [*modules, *variables]):
                return cls(guess)
            return cls(tuple(modules), dict(variables))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(guess)

    def with_told(self, told: Told) -> Learned:
        """With what one more server told; itself if that is nothing new."""
        if {*told.modules} <= {*self.modules} and {**self.variables, **told.variables} == self.variables:
            return self
        return Learned(tuple(dict.fromkeys([*told.modules, *self.modules])), {**self.variables, **told.variables})

    def remember(self) -> None:
        """For the next service. Does nothing where there is no place for it."""
        path = _path()
        if path is None:
            return
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_suffix(f".{os.getpid()}")
            new.touch(mode=0o600)
            new.write_text(json.dumps(attrs.asdict(self)))
            new.replace(path)


def _path() -> Path | None:
    root = Config.cache_directory()
    if root is None:
        return None
    environment = hashlib.sha256(f"{sys.executable}:{sys.prefix}:{sys.version}".encode()).hexdigest()
    return root / "yr-fastload" / "template" / f"{environment[:32]}.json"


def _is_own(path: Path) -> bool:
    """Whether nobody else could have written it: what it names is run."""
    return all(
        status.st_uid == os.geteuid() and not status.st_mode & 0o022 for status in (path.stat(), path.parent.stat())
    )
