"""The command ``yr-fastload``: one module per subcommand, imported when used."""

from __future__ import annotations

import importlib

import click

from yr_fastload_native.errors import FastLoadError

__all__ = ["main"]

# Listed here with their summaries, so that `--help` imports none of them.
_COMMANDS = {
    "bench": "Measure pulls against plain copies of the same bytes, with every byte checked.",
    "checkpoint": "Share the files of a checkpoint, for every engine and parallel layout.",
    "demo": "Watch a second process pull a model from a first instead of reading the disk.",
    "doctor": "Find out what prevents or slows pulls on this machine, and what to do about it.",
    "estimate": "Estimate how long a pull takes on other links and models.",
    "evict": "Remove published weights from the cluster.",
    "inspect": "Show a published identity: where, by whom, and every tensor.",
    "ls": "List the weights that are published on the cluster.",
    "serve": "Serve a model with vLLM instances behind one address; POST /scaleout adds one.",
    "sim": "Run a command with simulated Ascend devices.",
    "verify-vllm": "Check that a second vLLM instance pulls its weights and answers the same.",
    "worker": "Run an openYuanrong worker, one per machine and user: on loopback, or in a cluster of machines.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        try:
            module = name.replace("-", "_")
            command = getattr(importlib.import_module(f"{__name__}.{module}"), module)
        except ImportError as error:
            raise FastLoadError(f"{error}; reinstall yr-fastload-native", op=name) from error
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except FastLoadError as error:
            click.echo(f"error: {error.code}: {' '.join(str(error).split())}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("error: INTERRUPTED: stopped by the user", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="yr-fastload-native", message="%(prog)s %(version)s")
def main() -> None:
    """Load the weights of a new inference instance from a running one, through openYuanrong.

    With --json a command prints its result as one line of JSON on stdout. An error is one line on stderr. The exit
    status is 0 for success, 1 for an error, 2 for wrong usage and 130 after Ctrl-C.
    """
