"""Simulated Ascend devices: openYuanrong's own NPU code, unmodified, on ordinary memory.

``docs/simulated-ascend.md`` says what is simulated and what is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

__all__ = ["active", "counters", "device_count", "environment", "library_directory", "real_device"]

_MARK = "YR_FASTLOAD_SIM"
_DEVICES = 8  # as csrc/sim/engine/settings.hpp
_RUNTIME = "libascendcl.so"
_SHIM = "libyrfl_davinci.so"
# CANN's default location; its set_env.sh names the actual one in these variables.
_CANN_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_CANN_HOME = "/usr/local/Ascend/ascend-toolkit/latest"


def library_directory() -> Path:
    """Where the simulated runtime's libraries are installed."""
    return Path(__file__).with_name("lib")


def active() -> bool:
    """Whether this process was started with simulated devices."""
    return os.environ.get(_MARK) == "1"


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a process with simulated devices.

    The dynamic linker reads these variables when a process starts, so they only affect new processes. Libraries that
    are already preloaded stay first, as a sanitizer's runtime must.

    Args:
        base: The environment to extend; by default this process's.
    """
    made = dict(os.environ if base is None else base)
    directory = str(library_directory())
    paths = [path for path in made.get("LD_LIBRARY_PATH", "").split(":") if path not in ("", directory)]
    made["LD_LIBRARY_PATH"] = ":".join([directory, *paths])
    shim = str(library_directory() / _SHIM)
    preloaded = [path for path in made.get("LD_PRELOAD", "").replace(" ", ":").split(":") if path not in ("", shim)]
    made["LD_PRELOAD"] = ":".join([*preloaded, shim])
    made[_MARK] = "1"
    return made


def real_device() -> str | None:
    """Evidence that this machine has a real NPU or its runtime; None if there is none."""
    nodes = sorted(Path("/dev").glob("davinci[0-9]*"))
    if nodes:
        return str(nodes[0])
    homes = [os.environ[name] for name in _CANN_HOMES if os.environ.get(name)] or [_CANN_HOME]
    directories = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *(f"{home}/lib64" for home in homes)]
    for directory in directories:
        if directory and Path(directory) != library_directory() and Path(directory, _RUNTIME).exists():
            return str(Path(directory, _RUNTIME))
    return None


def device_count(base: Mapping[str, str]) -> int:
    """Number of devices of a process with this environment: simulated ones, or device nodes of real ones."""
    if base.get(_MARK) == "1":
        told = base.get("YR_FASTLOAD_SIM_DEVICES", "")
        return int(told) if told.isdecimal() else _DEVICES  # the runtime refuses anything but numbers
    return len(list(Path("/dev").glob("davinci[0-9]*")))


def counters() -> dict[str, Any]:
    """The counters of this process's simulated runtime; ``docs/simulated-ascend.md`` lists their names.

    Raises:
        DeviceError: This process has no simulated devices.
    """
    import ctypes
    import json

    from yr_fastload_native.errors import DeviceError

    if not active():
        raise DeviceError("this process has no simulated devices; run it under `yr-fastload sim --`", op="sim")
    read = ctypes.CDLL(str(library_directory() / _RUNTIME)).yrfl_sim_counters
    read.restype = ctypes.c_size_t
    read.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    size = read(None, 0) + 4096  # other threads continue counting
    text = ctypes.create_string_buffer(size)
    read(text, size)
    return cast("dict[str, Any]", json.loads(text.value))
