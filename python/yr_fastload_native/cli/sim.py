"""``yr-fastload sim``: run a command with simulated devices."""

from __future__ import annotations

import click

__all__ = ["sim"]


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--device",
    "kind",
    type=click.Choice(["ascend", "cuda"]),
    default="ascend",
    show_default=True,
    help="Ascend NPUs or CUDA GPUs.",
)
@click.option(
    "--devices", type=click.IntRange(1, 1024), help="Number of devices.  [default: $YR_FASTLOAD_SIM_DEVICES, or 8]"
)
@click.option("--force", is_flag=True, help="Run even on a machine with a real device, which is then hidden.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def sim(kind: str, devices: int | None, force: bool, command: tuple[str, ...]) -> None:
    """Run COMMAND with simulated devices: `yr-fastload sim -- python script.py`.

    For Ascend, openYuanrong's NPU code runs unmodified on ordinary memory. For CUDA, this package's code runs on a
    stand-in for the driver; torch's own CUDA code does not. No device, driver or root is needed. The exit status is
    that of the command, 127 if there is no such command, or 126 if it cannot be run.
    """
    from yr_fastload_native.sim.launcher import launch

    launch(command, kind=kind, devices=devices, force=force)
