"""Who may make files that others take, since some of them are code.

A key that only processes of this user on this machine know lies in the private directory of their worker. By it one of
them proves to the others that it has made a set, whoever else the worker lets publish.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path

import attrs

from yr_fastload_native.errors import FastLoadError, IntegrityError
from yr_fastload_native.settings import Config
from yr_fastload_native.worker.home import Home

__all__ = ["Makers", "own_key", "prove", "trusted_makers"]

_log = logging.getLogger(__name__)
_BYTES = 32
_NAME = "files.key"
_OP = "files"


@attrs.frozen
class Makers:
    """Whose files are taken.

    Attributes:
        anybody: Whoever the worker lets publish; else processes that know the key.
        key: From `own_key`; None: there is none, and nobody is believed.
    """

    anybody: bool
    key: bytes | None = attrs.field(default=None, repr=False)

    def check(self, proof: str, proven: bytes, *, op: str) -> None:
        """Raises:
        IntegrityError: Somebody else has made it.
        """
        if self.anybody or (self.key is not None and hmac.compare_digest(proof, prove(self.key, proven))):
            return
        raise IntegrityError(
            "no process of this user on this machine made these files, which may be code, and nothing else says that "
            "their publisher is to be believed: use a worker that requires keys, or share_caches=on",
            op=op,
        )


def trusted_makers(config: Config, key: bytes | None, share: str) -> Makers:
    """Who is believed by the setting ``share_caches``."""
    believed = (config.curve_key_dir, config.access_key, config.access_key_file, config.trusted_digests)
    return Makers(share == "on" or any(map(bool, believed)), key)


def prove(key: bytes, what: bytes) -> str:
    """HMAC-SHA256, hexadecimal."""
    return hmac.new(key, what, "sha256").hexdigest()


def own_key(config: Config) -> bytes | None:
    """The key, made when it is first asked for; None where there is no place that is closed to others."""
    try:
        home = Home(config.worker_home or None)
        home.make(_OP)
        return _read(home.path / _NAME) or _make(home.path / _NAME)
    except (FastLoadError, OSError) as error:
        _log.debug("files cannot be proven to be this user's: %s", str(error))
        return None


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{path} is open to others")
        key = file.read(_BYTES + 1)
    if len(key) != _BYTES:
        raise OSError(f"{path} holds no key")
    return key


def _make(path: Path) -> bytes | None:
    new = path.with_name(f".{_NAME}.{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_BYTES))
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(new, path)
    finally:
        new.unlink()
    return _read(path)
