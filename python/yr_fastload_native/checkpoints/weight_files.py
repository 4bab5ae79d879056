"""Which files hold the weights of a checkpoint: vLLM's rules, without vLLM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import attrs

from yr_fastload_native.errors import IntegrityError, InvalidArgumentError

__all__ = ["INDEXES", "NamedFile", "named", "weight_files"]

INDEXES = ("model.safetensors.index.json", "consolidated.safetensors.index.json")
# A directory is searched for these, and the first kind found is read; vLLM reads neither of the last two.
_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_MISTRAL = "consolidated*.safetensors"
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


@attrs.frozen(order=True)
class NamedFile:
    """A file and its name in the checkpoint, which is the same on every host."""

    name: str
    path: Path


def weight_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that hold the weights of a checkpoint, and the index that picks them.

    Args:
        path: Its directory, or its only file.

    Returns:
        Sorted by name: the files in Mistral's own format if there are any; otherwise those of the first kind found
            among safetensors, bin, pt, pth and GGUF, without a trainer's files. If there is an index, only the
            safetensors files that it names, and the index.

    Raises:
        InvalidArgumentError: There are none.
        IntegrityError: The index is damaged, or names a file that is missing.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    mistral = _found(root, _MISTRAL)
    if mistral:
        return _picked(mistral, root / INDEXES[1])
    for pattern in _PATTERNS:
        files = _found(root, pattern)
        if files:
            return _picked(files, root / INDEXES[0]) if pattern == _PATTERNS[0] else files
    raise InvalidArgumentError(
        f"{root} holds no weight files ({', '.join(_PATTERNS)}); to tell checkpoints apart without them set "
        "fingerprint to a text that names these weights, for example their revision",
        op="fingerprint",
        failed_keys=[str(root)],
    )


def named(files: Iterable[Path], root: Path) -> list[NamedFile]:
    """Files with their names below the directory of a checkpoint."""
    return sorted(NamedFile(os.path.relpath(file, root), file) for file in files)


def _found(root: Path, pattern: str) -> list[Path]:
    return sorted(each for each in root.glob(pattern) if each.is_file() and not each.name.endswith(_NO_WEIGHTS))


def _picked(files: list[Path], index: Path) -> list[Path]:
    """The safetensors files that an index names, and the index; all files if there is no index."""
    if not index.is_file():
        return files
    try:
        names = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _refused(index, f"it cannot be read as an index: {error}") from None
    missing = sorted(names - {file.name for file in files})
    if missing:
        raise _refused(index, f"it names {missing[0]!r}, which is not there")
    return [*(file for file in files if file.name in names), index]


def _refused(index: Path, why: str) -> IntegrityError:
    return IntegrityError(f"{index}: {why}; fetch the checkpoint again", op="fingerprint", failed_keys=[str(index)])
