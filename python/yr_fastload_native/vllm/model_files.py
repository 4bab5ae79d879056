"""The small files of a model, for machines that do not have its directory: all that an instance needs beside weights.

They are put into a directory of their own, with a file that says what they are of.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from yr_fastload_native.errors import FastLoadError, IntegrityError, NotPublishedError, UnavailableError
from yr_fastload_native.files.exchange import publish_files, take_files
from yr_fastload_native.files.file_set import File, check_name, read_files
from yr_fastload_native.files.makers import Makers, own_key, trusted_makers
from yr_fastload_native.files.placing import place
from yr_fastload_native.loader.fast_loader import FastLoader
from yr_fastload_native.settings import Config, ExchangeConfig

__all__ = ["Description", "described", "description", "is_directory_elsewhere", "publish_model", "take_model"]

_log = logging.getLogger("vllm.yr_fastload")

_OP = "model files"
_MODEL, _INFOS = "model", "modelinfos"  # where they belong
_DESCRIPTION = "yr-fastload.json"
_TEXT = (".json", ".jsonl", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".bpe", ".yaml")
_CODE = (".py",)
_DEPTH = 3
_MOST_BYTES = 256 << 20
_DEADLINE_S = 30.0


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a directory of small files is of.

    Attributes:
        model: The directory of the model where its weights were read.
        name: What it is called there, links followed.
        checkpoint: The name of its weights' files, which stands in their identity.
        apart: What else of the files does.
    """

    model: str
    name: str
    checkpoint: str
    apart: dict[str, str] = {}
    format: int = 1


def described(model: str) -> Description | None:
    """What the directory of a model is of; None for any but those that `take_model` has made."""
    home, path = _home(), Path(os.path.abspath(model))
    if home is None or not path.is_relative_to(home):
        return None
    try:
        return msgspec.json.decode((path / _DESCRIPTION).read_bytes(), type=Description)
    except (OSError, msgspec.MsgspecError):
        return None


def description(model: str, checkpoint: str, apart: Mapping[str, str]) -> Description:
    """Of a directory of this machine."""
    return Description(_absolute(model), Path(model).expanduser().resolve().name, checkpoint, dict(apart))


def is_directory_elsewhere(model: str) -> bool:
    """Whether a model is named by a directory that is not on this machine."""
    path = os.path.expanduser(model)
    return os.path.isabs(path) and not os.path.exists(path)


def _home() -> Path | None:
    root = Config.cache_directory()
    return None if root is None else root / "yr-fastload" / "models"


def _identity(model: str, *, code: bool) -> dict[str, Any]:
    return {"kind": "model files", "model": _absolute(model), "code": code}


def _identity_of_infos(model: str) -> dict[str, Any]:
    return {"kind": "model infos", "model": _absolute(model)}


def _absolute(model: str) -> str:
    return os.path.abspath(os.path.expanduser(model))


# -- where the model is --------------------------------------------------------------------------------------------


def publish_model(
    fast: FastLoader, about: Description, *, architectures: Sequence[str], cache_root: Path, code: bool
) -> int:
    """Publish the small files of a model, and what vLLM has noted of its class; how many there are.

    Args:
        fast: Keeps them published.
        about: What they are of; of what is no directory, nothing is published.
        architectures: From its config.
        cache_root: Of vLLM.
        code: Whether it may run code of its own, which is then among the files.

    Raises:
        FastLoadError: As from `publish_files` and `read_files`.
    """
    root = Path(about.model)
    if not root.is_dir():
        return 0
    about = described(about.model) or about
    sources = {f"{_MODEL}/{name}": path for name, path in _small_files(root, _CODE)} if code else {}
    paths = {f"{_MODEL}/{name}": path for name, path in _small_files(root, _TEXT)} | sources
    files = read_files(paths, most_bytes=_MOST_BYTES, op=_OP)
    files.append(File(f"{_MODEL}/{_DESCRIPTION}", 0o600, msgspec.json.encode(about)))
    key = own_key(fast.config)
    publish_files(fast, _identity(about.model, code=bool(sources)), files, key=key)
    found = [path for each in architectures for path in (cache_root / _INFOS).glob(f"*-{_of_glob(each)}.json")]
    infos = read_files({f"{_INFOS}/{path.name}": path for path in found}, most_bytes=_MOST_BYTES, op=_OP)
    if infos:
        publish_files(fast, _identity_of_infos(about.model), infos, key=key)
    return len(files)


def _of_glob(name: str) -> str:
    return "".join(each for each in name if each.isalnum() or each == "_")


def _small_files(root: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name and place of each; links, as Hugging Face's cache has them, are followed."""
    for directory, directories, names in os.walk(root):
        below = Path(directory).relative_to(root)
        directories[:] = [each for each in directories if not each.startswith(".") and len(below.parts) < _DEPTH]
        for name in names:
            path = Path(directory, name).resolve()
            if name.endswith(tuple(suffixes)) and name != _DESCRIPTION and not name.startswith(".") and path.is_file():
                yield "/".join((*below.parts, name)), path


# -- where it is not -----------------------------------------------------------------------------------------------


def take_model(fast: FastLoader, exchange: ExchangeConfig, model: str, *, cache_root: Path, code: bool) -> Path:
    """A directory of this machine with the small files of a model.

    Args:
        fast: Connected to whoever publishes them.
        exchange: Settings.
        model: Its directory on another machine.
        cache_root: Of vLLM.
        code: Whether it may run code of its own; then it counts who has published that.

    Raises:
        NotPublishedError: Nobody publishes them.
        UnavailableError: There is no place for them.
        FastLoadError: As from `take_files` and `place`.
    """
    home = _home()
    if home is None:
        raise UnavailableError("there is no directory for caches; set HOME or XDG_CACHE_HOME", op=_OP)
    known = trusted_makers(fast.config, own_key(fast.config), exchange.share_caches)
    files = _take_files(fast, model, known if code else None)
    contents = hashlib.sha256(b"".join(hashlib.sha256(each.data).digest() + each.name.encode() for each in files))
    directory = home / contents.hexdigest()[:32] / _name_of(files)
    _check_kept(files, place(files, {_MODEL: directory}).kept, directory)
    try:  # only known makers: they stay in vLLM's own cache
        place(_take(fast, _identity_of_infos(model), known), {_INFOS: cache_root / _INFOS})
    except FastLoadError as error:
        _log.debug("vLLM has to look at the class of %s itself: %s", model, str(error))
    return directory


def _take_files(fast: FastLoader, model: str, known: Makers | None) -> list[File]:
    """With code, of these makers, if there is some; else of anybody, who may publish the weights too."""
    if known is not None:
        try:
            return _take(fast, _identity(model, code=True), known)
        except NotPublishedError:
            pass
    found = _take(fast, _identity(model, code=False), Makers(True))
    return [each for each in found if not each.name.endswith(_CODE)]


def _take(fast: FastLoader, identity: dict[str, Any], makers: Makers) -> list[File]:
    return take_files(fast, identity, most_bytes=_MOST_BYTES, deadline_s=_DEADLINE_S, makers=makers)


def _name_of(files: Sequence[File]) -> str:
    """What the directory is called, which is part of the identity of some weights."""
    try:
        (about,) = [each.data for each in files if each.name == f"{_MODEL}/{_DESCRIPTION}"]
        name = msgspec.json.decode(about, type=Description).name
    except (ValueError, msgspec.MsgspecError) as error:
        raise IntegrityError(f"the files do not say what they are of: {error}", op=_OP) from None
    if len(check_name(name, op=_OP)) != 1:
        raise IntegrityError(f"{name[:80]!r} is no name of a directory", op=_OP)
    return name


def _check_kept(files: Sequence[File], kept: Sequence[str], directory: Path) -> None:
    """Refuse a directory in which somebody has changed something."""
    for each in files:
        path = directory / each.name.partition("/")[2]
        if each.name in kept and path.read_bytes() != each.data:
            raise IntegrityError(f"{path} is not what was put there; remove {directory}", op=_OP)
