"""The tensors in a checkpoint's files, mapped, and what else is needed to write the same files again."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import attrs
import numpy as np
from numpy.typing import NDArray

from yr_fastload_native.checkpoints.mapped_file import MappedFile
from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.safetensors_files import StoredTensor, scan_file
from yr_fastload_native.checkpoints.weight_files import NamedFile, named, weight_files
from yr_fastload_native.errors import FastLoadError, IntegrityError, InvalidArgumentError

__all__ = ["TensorFiles"]

_TORCH = (".bin", ".pt", ".pth")


@attrs.frozen
class TensorFiles:
    """The weight files of one checkpoint, as they were when they were sampled.

    A file that is cut short while it is mapped ends the process that reads the missing part in memory, as it does with
    safetensors' own reader; publishing does not read there but by calls. Every other change is noticed by `changed`.

    Attributes:
        root: Directory of the checkpoint, or its only file.
        read: The files.
        find: Says which ones there are now.
    """

    root: Path
    read: ReadFiles
    find: Callable[[], Sequence[NamedFile]]
    _mapped: WeakValueDictionary[Path, MappedFile] = attrs.field(factory=WeakValueDictionary, init=False, eq=False)

    @classmethod
    def of(cls, path: Path, *, deadline_s: float) -> TensorFiles:
        """Find and sample the files.

        Args:
            path: Directory of the checkpoint, or its only file.
            deadline_s: Bound of sampling, seconds.

        Raises:
            InvalidArgumentError: There are none, or one cannot be read.
            IntegrityError: Their index is damaged, or names a file that is missing.
            TransferTimeoutError: Not done in time.
        """

        def find() -> list[NamedFile]:
            return named(weight_files(path), path if path.is_dir() else path.parent)

        return cls(path, ReadFiles.of(find(), deadline_s=deadline_s), find)

    @property
    def fingerprint(self) -> str:
        """The same on every host with the same files."""
        return f"files:{self.read.fingerprint()}"

    def changed(self) -> list[str]:
        """Names of the files that are not what was sampled."""
        try:
            now = self.find()
        except FastLoadError as error:
            return list(error.failed_keys) or [str(self.root)]
        return self.read.changed(now)

    def check(self, op: str) -> None:
        """Raises IntegrityError if they are not what was sampled."""
        changed = self.changed()
        if changed:
            raise IntegrityError(
                f"{changed[0]!r} of {self.root} was written to or replaced meanwhile; start again when it is whole",
                op=op,
                failed_keys=changed,
            )

    def tensors(self) -> dict[str, Any]:
        """Every tensor by name, file by file; no byte of them is read yet.

        Raises:
            IntegrityError: A file breaks its format, or two files hold the same name.
            InvalidArgumentError: A file is of a format that cannot be read here.
        """
        return self._merged((file, self._of_file(file)) for file in self._weight_files())

    def headers(self) -> dict[str, NDArray[np.uint8]]:
        """By file name, the bytes before the first tensor's; of safetensors files."""
        return {
            file.name: _header(self._bytes(file.path))
            for file in self._weight_files()
            if file.path.suffix == ".safetensors"
        }

    def indexes(self) -> dict[str, NDArray[np.uint8]]:
        """By file name, the bytes of the files that only say where tensors are."""
        return {file.name: self._bytes(file.path) for file in self.read.files if file.path.suffix == ".json"}

    @property
    def mapped(self) -> list[MappedFile]:
        """What the arrays that were given, and are still in use, lie in."""
        return list(self._mapped.values())

    def _bytes(self, path: Path) -> NDArray[np.uint8]:
        mapped = self._mapped.get(path)
        if mapped is None:
            if not path.stat().st_size:
                return np.empty(0, np.uint8)
            mapped = self._mapped[path] = MappedFile(path)
        return np.frombuffer(mapped, np.uint8)

    def _weight_files(self) -> list[NamedFile]:
        return [file for file in self.read.files if file.path.suffix != ".json"]

    def _of_file(self, file: NamedFile) -> dict[str, Any]:
        if file.path.suffix == ".safetensors":
            return dict(_tensors(file.path, scan_file(file.path), self._bytes(file.path)))
        if file.path.suffix in _TORCH:
            return _of_torch(file.path)
        raise InvalidArgumentError(
            f"{file.path} is no file of safetensors or torch, whose tensors can be published",
            op="checkpoint",
            failed_keys=[str(file.path)],
        )

    @staticmethod
    def _merged(files: Iterator[tuple[NamedFile, dict[str, Any]]]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for file, tensors in files:
            twice = sorted(merged.keys() & tensors.keys())
            if twice:
                raise IntegrityError(
                    f"{file.path}: another file holds tensor {twice[0]!r} too; fetch the checkpoint again",
                    op="checkpoint",
                    failed_keys=twice,
                )
            merged |= tensors
        return merged


def _header(whole: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return whole[: 8 + int.from_bytes(whole[:8].tobytes(), "little")]


def _tensors(
    path: Path, stored: Iterable[StoredTensor], whole: NDArray[np.uint8]
) -> Iterator[tuple[str, NDArray[Any]]]:
    for tensor in stored:
        end = tensor.offset + tensor.nbytes
        if end > whole.size:
            raise IntegrityError(f"{path}: it became shorter", op="checkpoint", failed_keys=[str(path)])
        yield tensor.name, np.ndarray(tensor.shape, tensor.dtype, whole.data, tensor.offset)


def _of_torch(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise InvalidArgumentError(
            f"{path} is a file of torch's, which is not installed", op="checkpoint", failed_keys=[str(path)]
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # whatever a damaged archive makes torch raise
        raise IntegrityError(
            f"{path}: torch cannot read it: {error}", op="checkpoint", failed_keys=[str(path)]
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InvalidArgumentError(f"{path} holds more than tensors by name", op="checkpoint", failed_keys=[str(path)])
    return {sys.intern(str(name)): tensor for name, tensor in found.items()}
