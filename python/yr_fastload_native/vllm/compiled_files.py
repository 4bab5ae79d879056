"""Where what vLLM compiles is kept, and which of it this process has used.

vLLM keeps a directory for each configuration; Triton one for each kernel, in vLLM's or in one of its own.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from yr_fastload_native.errors import IntegrityError
from yr_fastload_native.files.file_set import File, read_files
from yr_fastload_native.vllm import compat

__all__ = ["CompiledFiles"]

_OP = "publish files"
_OF_VLLM, _OF_TRITON = "torch_compile_cache", "triton"
_OF_AOT = "torch_aot_compile"  # below the first, with directories of its own
_LEFT_OUT = (".lock", ".tmp")
_OF_RANK = "rank_"
_UNDER_WAY_S = 60.0  # so long another instance may be writing it
_MOST_LOOKED_AT = 50_000  # files, of which a start can look at so many in a moment
_ELF_HEADER = struct.Struct("<4sBB26x8xQ10xHH2x")  # 64 bits, https://refspecs.linuxfoundation.org/elf/gabi4+
_noting: list[CompiledFiles] = []
_is_hooked = False


class CompiledFiles:
    """The caches of this process, and what it uses of them from now on.

    An audit hook sees what Python opens, of which there is something in every directory that is used.

    Attributes:
        roots: By name.
    """

    def __init__(self) -> None:
        global _is_hooked
        own = os.environ.get("TRITON_CACHE_DIR") or Path(os.environ.get("TRITON_HOME") or Path.home(), ".triton/cache")
        self.roots: Mapping[str, Path] = {
            _OF_VLLM: compat.cache_root() / _OF_VLLM,
            _OF_TRITON: Path(own).absolute(),
        }
        self._beginnings = {name: f"{path}{os.sep}" for name, path in self.roots.items()}
        self._used: set[tuple[str, ...]] = set()
        _noting.append(self)
        if not _is_hooked:  # for ever: an audit hook cannot be removed
            sys.addaudithook(_audit)
            _is_hooked = True

    def end(self) -> None:
        """Note nothing more. Idempotent."""
        if self in _noting:
            _noting.remove(self)

    def note(self, path: str) -> None:
        """Note that a file is opened, if it is in one of the caches."""
        for name, beginning in self._beginnings.items():
            if path.startswith(beginning):
                parts = path[len(beginning) :].split(os.sep)
                depth = 2 if name == _OF_VLLM and parts[0] == _OF_AOT else 1
                if len(parts) > depth:
                    self._used.add((name, *parts[:depth]))
                return

    def read(self, rank: str, most_bytes: int) -> list[File]:
        """The files that it used, for a rank of this name.

        Args:
            rank: As vLLM names its directory.
            most_bytes: Bound for all of them.

        Raises:
            IntegrityError: One was not written to its end, by a process that was killed meanwhile.
            InvalidArgumentError: One changed meanwhile.
            ResourceExhaustedError: They are beyond the bounds of a set.
        """
        paths = {name: path for used in sorted(self._used) for name, path in self._below(used, rank)}
        files = read_files(paths, most_bytes=most_bytes, op=_OP)
        for file in files:
            if file.name.endswith(".so") and not _is_whole(file.data):
                raise IntegrityError(
                    f"{paths[file.name]} is incomplete: whoever compiled it was killed meanwhile, and what loads it "
                    "fails; remove it",
                    op=_OP,
                    failed_keys=[file.name],
                )
        return files

    def left_empty(self) -> list[Path]:
        """Libraries in vLLM's cache that were begun and never written, as a process leaves them that is killed."""
        found: list[Path] = []
        before = time.time() - _UNDER_WAY_S
        left = _MOST_LOOKED_AT
        for directory, _, names in os.walk(self.roots[_OF_VLLM]):
            left -= len(names)
            if left < 0:
                break
            for path in (Path(directory, name) for name in names if name.endswith(".so")):
                with contextlib.suppress(OSError):  # it has gone
                    state = path.stat()
                    found += [path] if not state.st_size and state.st_mtime < before else []
        return found

    def _below(self, used: tuple[str, ...], rank: str) -> Iterator[tuple[str, Path]]:
        root = self.roots[used[0]]
        for directory, directories, names in os.walk(root.joinpath(*used[1:])):
            directories[:] = [each for each in directories if not each.startswith(_OF_RANK) or each == rank]
            for name in names:
                path = Path(directory, name)
                if not name.endswith(_LEFT_OUT) and path.is_file() and not path.is_symlink():
                    yield "/".join((used[0], *path.relative_to(root).parts)), path


def _is_whole(library: bytes | memoryview) -> bool:
    """Whether a shared object is as long as its header says: the table of sections is its end."""
    if len(library) < _ELF_HEADER.size:
        return False
    magic, bits, order, sections, each, count = _ELF_HEADER.unpack_from(library)
    if (magic, bits, order) != (b"\x7fELF", 2, 1):
        return bool(magic == b"\x7fELF")  # of a machine that is not known here
    return bool(sections and sections + each * count <= len(library))


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _noting and isinstance(arguments[0], str):
        for each in tuple(_noting):
            each.note(arguments[0])
