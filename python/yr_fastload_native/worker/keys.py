"""Curve keys, in the directory layout that openYuanrong's worker and our `curve_key_dir` expect."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from yr_fastload_native.errors import InvalidArgumentError, UnavailableError

__all__ = ["make_curve_keys"]

_CHARS = 40
_AUTHORIZED = "worker_authorized_clients"


def make_curve_keys(directory: str | os.PathLike[str]) -> Path:
    """Create one key pair for a worker and one for its clients.

    The directory has mode 0700. The worker reads ``worker.key``, ``worker.key_secret`` and, to know who may connect,
    ``worker_authorized_clients/``. A client reads ``client.key``, ``client.key_secret`` and ``worker.key``.

    Returns:
        Its absolute path.

    Raises:
        InvalidArgumentError: It exists and is not empty: keys are never replaced.
        UnavailableError: It cannot be written, or openYuanrong's libzmq is missing.
    """
    home = Path(os.path.abspath(directory))
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InvalidArgumentError(f"{str(home)!r} exists and is not an empty directory; use another", op="worker keys")
    pairs = {name: _pair() for name in ("worker", "client")}
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        (home / _AUTHORIZED).mkdir(mode=0o700)
        for name, (public, private) in pairs.items():
            _write(home / f"{name}.key", public)
            _write(home / f"{name}.key_secret", private)
            _write(home / _AUTHORIZED / f"{name}.key", public)
    except OSError as error:
        raise UnavailableError(f"cannot write keys to {str(home)!r}: {error.strerror}", op="worker keys") from error
    return home


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _pair() -> tuple[str, str]:
    """A new public and private key in Z85, made by libzmq itself (`zmq_curve_keypair`)."""
    found = importlib.util.find_spec("yr.datasystem")
    places = list(found.submodule_search_locations or ()) if found else []
    libraries = [path for place in places for path in Path(place, "lib").glob("libzmq.so.*")]
    if not libraries:
        raise UnavailableError(
            "openYuanrong's libzmq is missing; pip install openyuanrong-datasystem==0.8.1", op="worker keys"
        )
    public, private = (ctypes.create_string_buffer(_CHARS + 1) for _ in range(2))
    if ctypes.CDLL(str(libraries[0])).zmq_curve_keypair(public, private) != 0:
        raise UnavailableError(f"{libraries[0]} was built without curve", op="worker keys")
    return public.value.decode(), private.value.decode()
