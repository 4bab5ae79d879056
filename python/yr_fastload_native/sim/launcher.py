"""Starts a command with simulated devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from yr_fastload_native import sim
from yr_fastload_native.errors import DeviceError, InvalidArgumentError

__all__ = ["launch"]

# As in shells.
_NOT_EXECUTABLE = 126
_NOT_FOUND = 127


def launch(
    command: Sequence[str],
    *,
    kind: str = "ascend",
    devices: int | None = None,
    force: bool = False,
    real_device: Callable[[str], str | None] | None = None,
) -> NoReturn:
    """Replace this process with ``command``, with simulated devices.

    Args:
        command: Program, found on PATH, and its arguments.
        kind: The kind of devices.
        devices: Number of devices; by default ``YR_FASTLOAD_SIM_DEVICES``, or 8.
        force: Run even on a machine with a real device of this kind.
        real_device: Detects one; by default `sim.real_device`.

    Raises:
        DeviceError: The machine has a real device of this kind, or the simulated runtime is not installed.
        InvalidArgumentError: There is no command.
        SystemExit: It cannot be started: status 127 if it does not exist, 126 if it is not a program.
    """
    if not command:
        raise InvalidArgumentError("no command to run; for example: yr-fastload sim -- python script.py", op="sim")
    found = (real_device or sim.real_device)(kind)
    if found is not None and not force:
        real = "NPU" if kind == "ascend" else "GPU"
        raise DeviceError(
            f"this machine has a real {real} or its runtime ({found}), which simulated ones would hide; use --force to",
            op="sim",
        )
    if not sim.library_directory(kind).is_dir():
        raise DeviceError(f"{sim.library_directory(kind)} is missing; reinstall yr-fastload-native", op="sim")
    environment = sim.environment(kind=kind)
    if devices is not None:
        environment["YR_FASTLOAD_SIM_DEVICES"] = str(devices)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        status, why = _NOT_FOUND, "command not found"
    except OSError as error:
        status, why = _NOT_EXECUTABLE, str(error.strerror)
    sys.stderr.write(f"error: {InvalidArgumentError.code}: sim: {command[0]}: {why}\n")
    raise SystemExit(status)
