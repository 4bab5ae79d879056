"""Simulated devices: Ascend NPUs, with openYuanrong's own NPU code unmodified, or CUDA GPUs.

``docs/simulated-ascend.md`` and ``docs/cuda.md`` say what is simulated and what is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

__all__ = ["KINDS", "active", "counters", "device_count", "environment", "library_directory", "opaque", "real_device"]

_MARK = "YR_FASTLOAD_SIM"
_MARKS = {"ascend": "1", "cuda": "cuda"}  # values of it
KINDS = tuple(_MARKS)
_DEVICES = 8  # as csrc/sim/engine/settings.hpp
_FOLDERS = {"ascend": "lib", "cuda": "cuda"}
_DRIVERS = {"ascend": "libascendcl.so", "cuda": "libcuda.so.1"}
_SHIM = "libyrfl_davinci.so"
# CANN's default location; its set_env.sh names the actual one in these variables.
_CANN_HOMES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
_CANN_HOME = "/usr/local/Ascend/ascend-toolkit/latest"
_NODES = {"ascend": "davinci[0-9]*", "cuda": "nvidia[0-9]*"}


def library_directory(kind: str = "ascend") -> Path:
    """Where the libraries of simulated devices of a kind are installed."""
    return Path(__file__).with_name(_FOLDERS[kind])


def active(kind: str = "ascend") -> bool:
    """Whether this process was started with simulated devices of this kind."""
    return os.environ.get(_MARK) == _MARKS[kind]


def opaque() -> bool:
    """Whether the memory of this process's simulated NPUs is out of the CPU's reach, as that of real ones is."""
    return os.environ.get("YR_FASTLOAD_SIM_OPAQUE") == "1"


def environment(base: Mapping[str, str] | None = None, *, kind: str = "ascend") -> dict[str, str]:
    """The environment for a process with simulated devices.

    The dynamic linker reads these variables when a process starts, so they only affect new processes. Libraries that
    are already preloaded stay first, as a sanitizer's runtime must.

    Args:
        base: The environment to extend; by default this process's.
        kind: The kind of devices. Those of another kind in ``base`` are removed.
    """
    made = dict(os.environ if base is None else base)
    ours = {str(library_directory(each)) for each in KINDS}
    paths = [path for path in made.get("LD_LIBRARY_PATH", "").split(":") if path and path not in ours]
    made["LD_LIBRARY_PATH"] = ":".join([str(library_directory(kind)), *paths])
    shim = str(library_directory() / _SHIM)
    preloaded = [path for path in made.get("LD_PRELOAD", "").replace(" ", ":").split(":") if path not in ("", shim)]
    if kind == "ascend":
        preloaded.append(shim)
    made.pop("LD_PRELOAD", None)
    if preloaded:
        made["LD_PRELOAD"] = ":".join(preloaded)
    made[_MARK] = _MARKS[kind]
    return made


def real_device(kind: str = "ascend") -> str | None:
    """Evidence that this machine has a real device of a kind, or its runtime; None if there is none."""
    nodes = sorted(Path("/dev").glob(_NODES[kind]))
    if nodes:
        return str(nodes[0])
    directories = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    if kind == "ascend":
        homes = [os.environ[name] for name in _CANN_HOMES if os.environ.get(name)] or [_CANN_HOME]
        directories += [f"{home}/lib64" for home in homes]
    for directory in directories:
        if directory and Path(directory) != library_directory(kind) and Path(directory, _DRIVERS[kind]).exists():
            return str(Path(directory, _DRIVERS[kind]))
    return None


def device_count(base: Mapping[str, str]) -> int:
    """Number of NPUs of a process with this environment: simulated ones, or device nodes of real ones."""
    if base.get(_MARK) == _MARKS["ascend"]:
        told = base.get("YR_FASTLOAD_SIM_DEVICES", "")
        return int(told) if told.isdecimal() else _DEVICES  # the runtime refuses anything but numbers
    return len(list(Path("/dev").glob(_NODES["ascend"])))


def counters() -> dict[str, Any]:
    """The counters of this process's simulated runtime; ``docs/simulated-ascend.md`` lists their names.

    Raises:
        DeviceError: This process has no simulated devices.
    """
    import ctypes
    import json

    from yr_fastload_native.errors import DeviceError

    kind = next((each for each in KINDS if active(each)), None)
    if kind is None:
        raise DeviceError("this process has no simulated devices; run it under `yr-fastload sim --`", op="sim")
    read = ctypes.CDLL(str(library_directory(kind) / _DRIVERS[kind])).yrfl_sim_counters
    read.restype = ctypes.c_size_t
    read.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    size = read(None, 0) + 4096  # other threads continue counting
    text = ctypes.create_string_buffer(size)
    read(text, size)
    return cast("dict[str, Any]", json.loads(text.value))
