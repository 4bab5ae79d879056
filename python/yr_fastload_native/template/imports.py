"""What is imported, and whether the files of it are still those that were."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from yr_fastload_native.checkpoints.file_state import FileState

__all__ = ["ImportedFiles", "import_all", "importable"]

_log = logging.getLogger(__name__)
_MAIN = ("__main__", "__mp_main__")


def importable() -> list[str]:
    """Modules of this process that another one could import too, in the order in which they came."""
    return [
        name
        for name, module in list(sys.modules.items())
        if name not in _MAIN and getattr(getattr(module, "__spec__", None), "name", None) == name
    ]


def import_all(names: Iterable[str]) -> None:
    """Import them one after the other; what cannot be imported is left out, and whoever needs it finds out why."""
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a module raises
            _log.debug("%s is not imported: %s: %s", name, type(error).__name__, error)


class ImportedFiles:
    """The files of all modules that are imported now.

    Attributes:
        count: So many.
    """

    def __init__(self) -> None:
        self._states: dict[Path, FileState | None] = {}
        for module in list(sys.modules.values()):
            name = getattr(module, "__file__", None)
            if isinstance(name, str):
                self._states[Path(name)] = _state(Path(name))

    @property
    def count(self) -> int:
        return len(self._states)

    def changed(self) -> Path | None:
        """One that is another by now, if there is one."""
        return next((path for path, state in self._states.items() if _state(path) != state), None)


def _state(path: Path) -> FileState | None:
    try:
        return FileState.of(path)
    except OSError:
        return None
