"""Which files a vLLM loader reads for a model, by its own rules, and what identifies them."""

from __future__ import annotations

import inspect
import json
import os
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from yr_fastload_native.checkpoints.read_files import ReadFiles
from yr_fastload_native.checkpoints.weight_files import INDEXES, NamedFile, named, weight_files
from yr_fastload_native.errors import FastLoadError, InvalidArgumentError
from yr_fastload_native.vllm.model_files import described

__all__ = ["Checkpoint", "files_read", "primary_files"]

_SHARDS = ("model-rank-{rank}-part-{part}.safetensors", "model-pp-{pp_rank}-tp-{tp_rank}-part-{part}.safetensors")


@attrs.frozen
class Checkpoint:
    """The files that a model's weights are read from.

    Attributes:
        text: Its name in the identity.
        files: None if a given fingerprint vouches for the weights.
        apart: What else stands in their identity, since there are other files with the same sample.
    """

    text: str
    files: ReadFiles | None = None
    apart: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, fingerprint: str, loader: Any, model: Any, model_config: Any, *, deadline_s: float) -> Checkpoint:
        """Find and sample the files; for ``files:full``, read them completely.

        Args:
            fingerprint: The setting.
            loader: The loader that would read the weights from disk; it downloads them if they are missing.
            model: The model to load.
            model_config: Its config.
            deadline_s: Time limit for sampling, seconds.

        Raises:
            InvalidArgumentError: The files cannot be found or read.
            TransferTimeoutError: Sampling took too long.
        """
        if fingerprint not in ("files", "files:full"):
            return cls(f"given:{fingerprint}")
        about = described(str(model_config.model))
        if about is not None:  # whoever has its weights' files vouches for them
            return cls(about.checkpoint, apart=dict(about.apart))
        files = ReadFiles.of(files_read(loader, model, model_config), deadline_s=deadline_s)
        if fingerprint == "files:full":
            return cls(f"sha256:{files.read_whole()}", files)
        return cls(f"files:{files.fingerprint()}", files)

    @property
    def paths(self) -> list[Path]:
        """The paths of the files."""
        return [] if self.files is None else [file.path for file in self.files.files]

    @property
    def sums(self) -> dict[str, str]:
        """SHA-256 of files by name, as far as they are known."""
        return {} if self.files is None else dict(self.files.sums)

    def changed(self, loader: Any, model: Any, model_config: Any) -> list[str]:
        """Names of the files that have changed since they were sampled. Call it after reading them."""
        if self.files is None:
            return []
        try:
            return self.files.changed(files_read(loader, model, model_config))
        except Exception as error:  # the weights are loaded, but nobody can tell from which files
            return [str(error)]


@attrs.frozen
class _Source:
    """One set of weights to read: the model's, or that of a part which has its own."""

    name: str
    revision: str | None
    subfolder: str | None
    fall_back_to_pt: bool
    patterns: list[str] | None


def files_read(loader: Any, model: Any, model_config: Any) -> list[NamedFile]:
    """The files that a loader would read for a model, downloaded if necessary, and the index that selects them.

    Raises:
        InvalidArgumentError: There are none, or they are not on a file system.
    """
    found: list[NamedFile] = []
    for number, source in enumerate(_sources(loader, model, model_config)):
        if "://" in source.name:
            raise InvalidArgumentError(
                f"the files of {source.name!r} are in object storage and cannot be told from others; set fingerprint "
                "to a text that names these weights, for example their version",
                op="fingerprint",
            )
        try:
            files = _files_of(loader, source)
        except FastLoadError:
            raise
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # how vLLM and the hubs' clients refuse
            raise InvalidArgumentError(
                f"the files of {source.name!r} were not found: {error}; set fingerprint to a text that names these "
                "weights, for example their revision",
                op="fingerprint",
                failed_keys=[source.name],
            ) from error
        found += [attrs.evolve(file, name=f"{number}/{file.name}") if number else file for file in files]
    return found


def primary_files(loader: Any, model: Any, model_config: Any) -> list[NamedFile]:
    """Those of `files_read` that hold the model itself, and none of a part that has its own.

    Raises:
        InvalidArgumentError: There are none, or they are not on a file system.
    """
    found = files_read(loader, model, model_config)
    parts = sum(1 for _ in _sources(loader, model, model_config)) - 1
    others = tuple(f"{number}/" for number in range(1, parts + 1))
    return [file for file in found if not file.name.startswith(others)] if others else found


def _sources(loader: Any, model: Any, model_config: Any) -> Iterable[_Source]:
    name = model_config.model
    if "fall_back_to_pt" not in _asks_for(loader):  # formats that may not read from where the model's config says
        name = getattr(model_config, "model_weights", None) or name
    yield _Source(
        str(name),
        model_config.revision,
        None,
        getattr(model, "fall_back_to_pt_during_load", True),
        getattr(model, "allow_patterns_overrides", None),
    )
    for each in getattr(model, "secondary_weights", ()) if hasattr(loader, "Source") else ():
        yield _Source(
            str(each.model_or_path),
            each.revision,
            getattr(each, "subfolder", None),
            getattr(each, "fall_back_to_pt", True),
            getattr(each, "allow_patterns_overrides", None),
        )


def _asks_for(loader: Any) -> list[str]:
    prepare = getattr(loader, "_prepare_weights", None)
    return [] if prepare is None else list(inspect.signature(prepare).parameters)


def _files_of(loader: Any, source: _Source) -> list[NamedFile]:
    """0.10.0 to 0.32.0: ``_prepare_weights`` answers a directory with its files, only these, or only the directory."""
    known = {
        "model_name_or_path": source.name,
        "revision": source.revision,
        "subfolder": source.subfolder,
        "fall_back_to_pt": source.fall_back_to_pt,
        "allow_patterns_overrides": source.patterns,
    }
    asked = _asks_for(loader)
    if not asked or set(asked) - known.keys():
        return _of_directory(loader, Path(source.name))
    answer = loader._prepare_weights(**{name: known[name] for name in asked})
    if isinstance(answer, str):
        return _of_directory(loader, Path(answer))
    files = [Path(file) for file in (answer if isinstance(answer, list) else answer[1])]
    root = Path(os.path.commonpath([file.parent for file in files]) if isinstance(answer, list) else answer[0])
    if str(getattr(loader.load_config.load_format, "value", loader.load_config.load_format)) == "npcache":
        files = _in_numpy_cache(root) or files
    indexes = [root / name for name in INDEXES if (root / name).is_file()]
    return named({*files, *(indexes if any(file.suffix == ".safetensors" for file in files) else ())}, root)


def _in_numpy_cache(root: Path) -> list[Path]:
    """What vLLM reads instead of the files, once it has converted them."""
    names = root / "np" / "weight_names.json"
    return [names, *(root / "np" / name for name in json.loads(names.read_bytes()))] if names.is_file() else []


def _of_directory(loader: Any, path: Path) -> list[NamedFile]:
    """The files in a directory: the shards of all ranks if there are any, otherwise those that vLLM reads."""
    if path.is_file():
        return named([path], path.parent)
    own = getattr(loader, "pattern", None)
    for pattern in (own,) if isinstance(own, str) else _SHARDS:
        files = [file for file in path.glob(_any(pattern)) if file.is_file()]
        if files:
            return named(files, path)
    return named(weight_files(path), path)


def _any(pattern: str) -> str:
    """A file name pattern, with ``*`` for each field."""
    return "".join(text + ("" if field is None else "*") for text, field, *_ in string.Formatter().parse(pattern))
