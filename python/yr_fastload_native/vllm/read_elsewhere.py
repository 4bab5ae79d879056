"""Weights that vLLM reads outside `load_weights`, found by watching which files are opened.

Some models read part of their weights in their constructor: the projector of a sentence transformer, an adapter, an
audio tokenizer. If its files are missing, vLLM continues without that part, so nobody else would notice.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from yr_fastload_native.checkpoints.file_state import FileState
from yr_fastload_native.checkpoints.whole_file import ChangedError, sum_of
from yr_fastload_native.errors import InvalidArgumentError

__all__ = ["Watch"]

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npy", ".npz", ".h5")
_OUR_THREADS = "yr-fastload"  # how the names of this package's threads begin

_lock = threading.Lock()
_watching: list[Watch] = []
_is_hooked = False


class Watch:
    """Notes every weight file that this process opens for reading while the watch is on.

    An audit hook sees files that Python opens, also for torch and numpy. safetensors opens files itself, so its
    ``safe_open`` is replaced meanwhile in every module that has it.
    """

    def __init__(self) -> None:
        self._states: dict[Path, FileState] = {}
        self._names: dict[Path, str] = {}

    def __enter__(self) -> Watch:
        global _is_hooked
        with _lock:
            if not _is_hooked:  # for ever: an audit hook cannot be removed
                sys.addaudithook(_audit)
                _is_hooked = True
            _watching.append(self)
            if len(_watching) == 1:
                _exchange_safe_open(*_safe_open())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Stop watching. Idempotent."""
        with _lock:
            if self not in _watching:
                return
            _watching.remove(self)
            if not _watching:
                original, noting = _safe_open()
                _exchange_safe_open(noting, original)

    def note(self, path: object) -> None:
        """Note a file that is about to be opened, if it is a weight file."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = os.fsdecode(path)
        if not name.endswith(_SUFFIXES) or threading.current_thread().name.startswith(_OUR_THREADS):
            return
        with contextlib.suppress(OSError, ValueError):  # missing, which opening it will show
            real = Path(os.path.realpath(name))
            self._states.setdefault(real, FileState.of(real))
            self._names.setdefault(real, os.path.basename(name))

    def others(self, known: Iterable[Path]) -> list[str]:
        """Names of the opened files that are not among the known ones."""
        return sorted(str(path) for path in self._besides(known))

    def contents(self, known: Iterable[Path] = ()) -> list[str]:
        """Name (without folder) and SHA-256 of each opened file that is not among the known ones.

        Raises:
            InvalidArgumentError: A file has changed since it was opened, or cannot be read.
        """
        found = self._besides(known)
        return sorted({f"{self._names[path]}:{_sum(path, state)}" for path, state in found.items()})

    def _besides(self, known: Iterable[Path]) -> dict[Path, FileState]:
        there = {Path(os.path.realpath(path)) for path in known}
        return {path: state for path, state in self._states.items() if path not in there}


def _sum(path: Path, state: FileState) -> str:
    try:
        return sum_of(path, state, lambda: None)
    except ChangedError:
        why = "was written to or replaced meanwhile"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    raise InvalidArgumentError(
        f"{path}, from which this model read weights when it was made, {why}; start again when nobody changes it",
        op="fingerprint",
        failed_keys=[str(path)],
    )


def _note(path: object) -> None:
    for watch in tuple(_watching):
        watch.note(path)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and not _writes(arguments[2]):
        _note(arguments[0])


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and flags & os.O_ACCMODE == os.O_WRONLY


@functools.cache
def _safe_open() -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """The ``safe_open`` of safetensors, and one that notes what it opens."""
    try:
        original = importlib.import_module("safetensors").safe_open
    except ImportError:
        return None, None

    @functools.wraps(original, updated=())
    def noting(*args: Any, **kwargs: Any) -> Any:
        _note(args[0] if args else next(iter(kwargs.values()), None))
        return original(*args, **kwargs)

    return original, noting


def _exchange_safe_open(there: Callable[..., Any] | None, instead: Callable[..., Any] | None) -> None:
    """Replace one by the other in all modules, since many import it by this name."""
    if there is None:
        return
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        if names.get("safe_open") is there:
            names["safe_open"] = instead
