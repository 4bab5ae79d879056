"""Starting a command with simulated devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NoReturn

from yr_fastload_native import sim
from yr_fastload_native.errors import DeviceError, InvalidArgumentError

__all__ = ["launch"]

_NOT_EXECUTABLE = 126
_NOT_FOUND = 127


def launch(
    command: Sequence[str],
    *,
    devices: int | None = None,
    force: bool = False,
    real_device: Callable[[], str | None] = sim.real_device,
) -> NoReturn:
    """Replace this process by ``command``, with simulated devices.

    Args:
        command: Program, found on PATH, and its arguments.
        devices: How many; by default those of ``YR_FASTLOAD_SIM_DEVICES``, or 8.
        force: Also on a machine that has a real NPU.
        real_device: What finds one.

    Raises:
        DeviceError: The machine has a real NPU.
        InvalidArgumentError: There is no command.
        SystemExit: It cannot be started: status 127 if it is not there, 126 if it is no program.
    """
    if not command:
        raise InvalidArgumentError("no command to run; for example: yr-fastload sim -- python script.py", op="sim")
    found = real_device()
    if found is not None and not force:
        raise DeviceError(
            f"this machine has a real NPU ({found}), which a simulated one would hide; use --force for that", op="sim"
        )
    environment = sim.environment()
    if devices is not None:
        environment["YR_FASTLOAD_SIM_DEVICES"] = str(devices)
    try:
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        raise SystemExit(_failed(command[0], "not found", _NOT_FOUND)) from None
    except OSError as error:
        raise SystemExit(_failed(command[0], str(error.strerror), _NOT_EXECUTABLE)) from None


def _failed(command: str, why: str, status: int) -> int:
    os.write(2, f"error: sim: {command}: {why}\n".encode())
    return status
