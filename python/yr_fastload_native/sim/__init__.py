"""Simulated Ascend devices: the NPU code of openYuanrong's wheel, unmodified, over ordinary memory.

``docs/simulated-ascend.md`` says what is simulated and what is not.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
from collections.abc import Mapping
from ctypes.util import find_library
from pathlib import Path
from typing import Any, cast

from yr_fastload_native.errors import DeviceError

__all__ = ["active", "counters", "environment", "library_directory", "real_device"]

_MARK = "YR_FASTLOAD_SIM"
_SHIM = "libyrfl_davinci.so"


def library_directory() -> Path:
    """Where the simulated runtime's libraries are installed."""
    return Path(__file__).with_name("lib")


def active() -> bool:
    """Whether this process was started with simulated devices."""
    return os.environ.get(_MARK) == "1"


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that is to have simulated devices.

    The dynamic linker reads these when a process starts, so they work for a new one only. What is preloaded already
    stays first: a sanitizer's runtime has to.
    """
    made = dict(os.environ if base is None else base)
    directory = str(library_directory())
    paths = [path for path in made.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path and path != directory]
    made["LD_LIBRARY_PATH"] = os.pathsep.join([directory, *paths])
    shim = str(library_directory() / _SHIM)
    preloaded = [path for path in made.get("LD_PRELOAD", "").replace(" ", ":").split(":") if path and path != shim]
    made["LD_PRELOAD"] = ":".join([*preloaded, shim])
    made[_MARK] = "1"
    return made


def real_device() -> str | None:
    """What shows that this machine has a real NPU or its runtime; None if nothing does."""
    nodes = glob.glob("/dev/davinci[0-9]*") if not active() else []
    if nodes:
        return nodes[0]
    library = find_library("ascendcl")
    return library if library is not None and not active() else None


def counters() -> dict[str, Any]:
    """What the simulated runtime of this process counted; ``docs/simulated-ascend.md`` has the names.

    Raises:
        DeviceError: This process has no simulated devices.
    """
    if not active():
        raise DeviceError("this process has no simulated devices; run it under `yr-fastload sim --`", op="sim")
    read = ctypes.CDLL("libascendcl.so").yrfl_sim_counters
    read.restype = ctypes.c_size_t
    read.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    size = read(None, 0) + 4096  # other threads go on counting
    text = ctypes.create_string_buffer(size)
    read(text, size)
    return cast("dict[str, Any]", json.loads(text.value))
