"""What modules read of the environment when they are imported: a process that was forked cannot have it otherwise."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs

__all__ = ["ImportedWith", "noted_reads"]

# Read by the loader of programs, the interpreter and native libraries, when they are loaded.
_NATIVE = ("LD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "MALLOC_", "TCMALLOC_", "GLIBC_")


@attrs.frozen
class ImportedWith:
    """The environment that modules were imported in.

    Attributes:
        reads: Names of variables that they read.
        before: The environment as they found it.
        after: As they left it.
        ordered: What of `before` was put there for this process alone, as it would be otherwise; None: not there.
    """

    reads: frozenset[str]
    before: Mapping[str, str]
    after: Mapping[str, str]
    ordered: Mapping[str, str | None] = attrs.field(factory=dict)

    def differing(self, environ: Mapping[str, str]) -> list[str]:
        """Names of variables by which modules that are imported in an environment may become others than these."""
        native = {name for name in (*environ, *self.before) if name.startswith(_NATIVE)}
        return sorted(name for name in self.reads | native if environ.get(name) not in self._values(name))

    def _values(self, name: str) -> tuple[str | None, ...]:
        before = self.before.get(name)
        return before, self.after.get(name), self.ordered.get(name, before)

    def as_imported(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment with what the imports would have changed in it."""
        changed = dict(environ)
        for name in {*self.before, *self.after}:
            before, after, ordered = self._values(name)
            if after != before and environ.get(name) in (before, ordered):
                if after is None:
                    changed.pop(name, None)
                else:
                    changed[name] = after
        return changed


@contextmanager
def noted_reads() -> Iterator[set[str]]:
    """The names that are read of `os.environ` meanwhile. Those that C reads are not seen."""
    reads: set[str] = set()
    plain: Any = type(os.environ)

    class Noting(plain):  # type: ignore[misc]
        def __getitem__(self, key: str) -> str:
            if isinstance(key, str):  # anything else is refused
                reads.add(key)
            return str(super().__getitem__(key))

        def copy(self) -> dict[str, str]:  # to be handed on
            return dict(zip(self, map(super().__getitem__, self), strict=True))

    os.environ.__class__ = Noting
    try:
        yield reads
    finally:
        os.environ.__class__ = plain
